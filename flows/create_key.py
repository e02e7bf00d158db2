"""Create key: a project gets a key to encrypt images under."""

from typing import Any

from prefect import flow

from flows.parameters.keys import CreateKey
from tasks import keys, summary


@flow(name="create-key", persist_result=False)
def create_key(request: CreateKey) -> dict[str, Any]:
    """Make a key-encryption key; it never leaves its key manager."""
    result = keys.create(request.key, request.blocks.names())
    summary.publish("key", f"Key {result['key']} created", result)
    return result
