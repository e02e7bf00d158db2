"""Enable key: what is under a key can be opened again."""

from typing import Any

from prefect import flow

from flows.parameters.keys import SwitchKey
from tasks import keys, summary


@flow(name="enable-key", persist_result=False)
def enable_key(request: SwitchKey) -> dict[str, Any]:
    """Allow the use of a key that was disabled."""
    result = keys.set_enabled(request.key, True, request.blocks.names())
    summary.publish("key", f"Key {result['key']} enabled", result)
    return result
