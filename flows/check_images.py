"""Check: images are read back and verified, the least lately checked first."""

from typing import Any

from prefect import flow

from darkroom import check
from flows.parameters.policy import CheckImages
from tasks import rules, summary


@flow(name="check-images", persist_result=False)
def check_images(request: CheckImages) -> dict[str, Any]:
    """Read back and verify images, the least lately checked first; what is wrong ends the run as failed."""
    results = rules.check(request.image, request.minutes, request.blocks.names())
    summary.publish_checks(results)
    return check.settled(results)
