"""Rotate: a key gets a new version, and the old one is not needed any more."""

from typing import Any

from prefect import flow

from flows.parameters.keys import RotateKey
from tasks import keys, summary


@flow(name="rotate-key", persist_result=False)
def rotate_key(request: RotateKey) -> dict[str, Any]:
    """Bring all that is under a key under a new version of it. Running it again after any kill goes on with it."""
    result = keys.rotate(request.key, request.blocks.names())
    summary.publish("rotate", f"Key {result['key']} at version {result['version']}", result)
    return result
