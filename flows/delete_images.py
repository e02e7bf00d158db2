"""Delete: images become invisible at once, and can be restored within the project's window."""

from typing import Any

from prefect import flow

from flows.parameters.deleting import DeleteImages
from tasks import batch, deleting, summary


@flow(name="delete-images", persist_result=False)
def delete_images(request: DeleteImages) -> dict[str, Any]:
    """Delete images, with a result for each; one that is refused does not keep the others."""
    results = batch.each(deleting.delete, request.images, request.blocks.names())
    summary.publish("delete", "Deleted", {result["name"]: result["outcome"] for result in results})
    return {"images": results}
