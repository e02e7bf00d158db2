"""Unshare: other projects cannot open an image any more."""

from typing import Any

from prefect import flow

from flows.parameters.sharing import ShareImage
from tasks import sharing, summary
from tasks.each import each


@flow(name="unshare-image", persist_result=False)
def unshare_image(request: ShareImage) -> list[dict[str, Any]]:
    """End the sharing of an image with other projects. The result tells of each project."""
    blocks = request.blocks.names()
    results = each(lambda project: sharing.unshare(request.image, project, blocks), request.projects)
    summary.publish("unshare", f"Image {request.image} unshared", {row["project"]: row["status"] for row in results})
    return results
