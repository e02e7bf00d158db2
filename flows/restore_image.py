"""Restore: a deleted image is back as it was."""

from typing import Any

from prefect import flow

from flows.parameters.deleting import RestoreImage
from tasks import deleting, summary


@flow(name="restore-image", persist_result=False)
def restore_image(request: RestoreImage) -> dict[str, Any]:
    """Bring a deleted image back within its window."""
    result = deleting.restore(request.image, request.name, request.blocks.names())
    summary.publish("restore", f"Image {result['name']} restored", result)
    return result
