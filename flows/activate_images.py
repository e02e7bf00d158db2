"""Activate: deactivated images can be used again."""

from typing import Any

from prefect import flow

from darkroom import batch
from flows.parameters.images import ActivateImages
from tasks import images, summary


@flow(name="activate-images", persist_result=False)
def activate_images(request: ActivateImages) -> dict[str, Any]:
    """Make deactivated images usable again."""
    results = images.activate(request.images, request.blocks.names())
    summary.publish_results("activate", "Activated images", results)
    return batch.settled(results)
