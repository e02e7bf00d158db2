"""Unshare: other projects cannot open an image any more."""

from functools import partial
from typing import Any

from prefect import flow

from flows.parameters.sharing import UnshareImage
from tasks import batch, sharing, summary


@flow(name="unshare-image", persist_result=False)
def unshare_image(request: UnshareImage) -> dict[str, Any]:
    """End the sharing of an image with other projects. The result tells of each project."""
    step = partial(sharing.unshare, request.image)
    results = batch.each(step, request.projects, request.blocks.names(), "project")
    summary.publish("unshare", f"Image {request.image} unshared", {row["project"]: row["outcome"] for row in results})
    return {"projects": results}
