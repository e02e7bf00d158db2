"""Prove again: the images that were booted longest ago, or never."""

from typing import Any

from prefect import flow

from darkroom.errors import DarkroomError
from darkroom.proving import ProofRequest
from flows.parameters.capture import ProveOldest
from tasks import projects, proving, summary


@flow(name="prove-oldest", persist_result=False)
def prove_oldest(request: ProveOldest) -> dict[str, Any]:
    """Boot a few images, one after another; one that does not boot does not keep the next from it."""
    result: dict[str, Any] = {}
    for blocks in projects.each(request.all_projects, request.blocks.names()):
        for image in proving.oldest(request.count, blocks):
            try:
                result[image] = proving.prove(image, ProofRequest(request.host, "", request.seconds), blocks)["how"]
            except DarkroomError as error:
                result[image] = str(error)
    summary.publish("boot-proofs", "Boot proofs", result)
    return result
