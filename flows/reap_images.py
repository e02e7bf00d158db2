"""Reap: imports that nobody goes on with become final."""

from typing import Any

from prefect import flow

from flows.parameters.maintenance import ReapImages
from tasks import maintenance, summary


@flow(name="reap-images", persist_result=False)
def reap_images(request: ReapImages) -> dict[str, Any]:
    """Kill images whose import was given up, and remove what killed writers left in the store."""
    result = maintenance.reap(request.all_projects, request.blocks.names())
    summary.publish(
        "reap", "Reaped", {"images": ", ".join(result["images"]) or "none", "leftovers": result["leftovers"]}
    )
    return result
