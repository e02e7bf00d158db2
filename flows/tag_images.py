"""Tag: images get tags, and lose tags."""

from typing import Any

from prefect import flow

from darkroom import batch
from flows.parameters.images import TagImages
from tasks import images, summary


@flow(name="tag-images", persist_result=False)
def tag_images(request: TagImages) -> dict[str, Any]:
    """Give tags to images, and take tags away."""
    results = images.tag(request.images, request.tags, request.remove, request.blocks.names())
    summary.publish_results("tag", "Tagged images", results)
    return batch.settled(results)
