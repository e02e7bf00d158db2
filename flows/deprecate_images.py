"""Deprecate: images are not to be used for anything new."""

from typing import Any

from prefect import flow

from darkroom import batch
from flows.parameters.images import DeprecateImages
from tasks import images, summary


@flow(name="deprecate-images", persist_result=False)
def deprecate_images(request: DeprecateImages) -> dict[str, Any]:
    """Mark images as not to be used for anything new, or take that mark away."""
    blocks = request.blocks.names()
    if request.undo:
        results = images.undeprecate(request.images, blocks)
    else:
        results = images.deprecate(request.images, request.replaced_by, blocks)
    summary.publish_results("deprecate", "Deprecated images", results)
    return batch.settled(results)
