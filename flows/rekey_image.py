"""Re-key: an encrypted image comes under another key."""

from typing import Any

from prefect import flow

from flows.parameters.keys import RekeyImage
from tasks import keys, summary


@flow(name="rekey-image", persist_result=False)
def rekey_image(request: RekeyImage) -> dict[str, Any]:
    """Put an encrypted image under another key; no data is rewritten."""
    result = keys.rekey(request.image, request.key, request.blocks.names())
    summary.publish("rekey", f"Image {result['name']} under key {result['key']}", result)
    return result
