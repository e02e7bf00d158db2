"""Share: other projects are asked to accept an image."""

from typing import Any

from prefect import flow

from flows.parameters.sharing import ShareImage
from tasks import sharing, summary
from tasks.each import each


@flow(name="share-image", persist_result=False)
def share_image(request: ShareImage) -> list[dict[str, Any]]:
    """Share an image with other projects; each accepts or rejects it. The result tells of each project."""
    blocks = request.blocks.names()
    results = each(lambda project: sharing.share(request.image, project, blocks), request.projects)
    summary.publish("share", f"Image {request.image} shared", {row["project"]: row["status"] for row in results})
    return results
