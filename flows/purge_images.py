"""Purge: deleted images go for good."""

from typing import Any

from prefect import flow

from flows.parameters.deleting import PurgeImages
from tasks import batch, deleting, summary


@flow(name="purge-images", persist_result=False)
def purge_images(request: PurgeImages) -> dict[str, Any]:
    """Remove for good the deleted images that are named, or all whose window has ended; held ones stay for later."""
    blocks = request.blocks.names()
    if request.images:
        results = batch.each(deleting.purge, request.images, blocks)
    else:
        results = deleting.purge_due(request.all_projects, blocks)["images"]
    summary.publish("purge", "Purged", {result["name"]: result["outcome"] for result in results})
    return {"images": results}
