"""Check: images are read back and verified, the least lately checked first."""

from typing import Any

from prefect import flow

from darkroom import check
from flows.parameters.policy import CheckImages
from tasks import projects, rules, summary


@flow(name="check-images", persist_result=False)
def check_images(request: CheckImages) -> dict[str, Any]:
    """Read back and verify images, the least lately checked first; what is wrong ends the run as failed."""
    acting = projects.each(request.all_projects and not request.image, request.blocks.names())
    results = list[Any]()
    for blocks in acting:
        results += rules.check(request.image, request.minutes / len(acting), blocks)
    summary.publish_checks(results)
    return check.settled(results)
