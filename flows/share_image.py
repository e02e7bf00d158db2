"""Share: other projects are asked to accept an image."""

from functools import partial
from typing import Any

from prefect import flow

from flows.parameters.sharing import ShareImage
from tasks import batch, sharing, summary


@flow(name="share-image", persist_result=False)
def share_image(request: ShareImage) -> dict[str, Any]:
    """Share an image with other projects; each accepts or rejects it. The result tells of each project."""
    step = partial(sharing.share, request.image)
    results = batch.each(step, request.projects, request.blocks.names(), "project")
    summary.publish("share", f"Image {request.image} shared", {row["project"]: row["outcome"] for row in results})
    return {"projects": results}
