"""Disable key: nothing that is under a key can be opened, until it is enabled."""

from typing import Any

from prefect import flow

from flows.parameters.keys import SwitchKey
from tasks import keys, summary


@flow(name="disable-key", persist_result=False)
def disable_key(request: SwitchKey) -> dict[str, Any]:
    """Forbid every use of a key at once; members who accepted an image read on by keys of their own."""
    result = keys.set_enabled(request.key, False, request.blocks.names())
    summary.publish("key", f"Key {result['key']} disabled", result)
    return result
