"""Deactivate: images cannot be used until they are activated."""

from typing import Any

from prefect import flow

from darkroom import batch
from flows.parameters.images import DeactivateImages
from tasks import images, summary


@flow(name="deactivate-images", persist_result=False)
def deactivate_images(request: DeactivateImages) -> dict[str, Any]:
    """Make images unusable, to members too, until they are activated."""
    results = images.deactivate(request.images, request.blocks.names())
    summary.publish_results("deactivate", "Deactivated images", results)
    return batch.settled(results)
