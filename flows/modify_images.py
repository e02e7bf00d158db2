"""Modify: what is written on images changes."""

from typing import Any

from prefect import flow

from darkroom import batch
from flows.parameters.images import ModifyImages
from tasks import images, summary


@flow(name="modify-images", persist_result=False)
def modify_images(request: ModifyImages) -> dict[str, Any]:
    """Change what is written on images, and what servers are to be made of them by."""
    results = images.modify(request.images, request.changes(), request.blocks.names())
    summary.publish_results("modify", "Modified images", results)
    return batch.settled(results)
