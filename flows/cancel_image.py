"""Cancel: the creation of an image ends before it is done."""

from typing import Any

from prefect import flow

from flows.parameters.deleting import CancelImage
from tasks import deleting, summary


@flow(name="cancel-image", persist_result=False)
def cancel_image(request: CancelImage) -> dict[str, Any]:
    """End the creation of an image, whoever works on it, and remove what there is of it."""
    result = deleting.cancel(request.image, request.blocks.names())
    summary.publish("cancel", f"Image {result['name']} cancelled", result)
    return result
