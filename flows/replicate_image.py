"""Replicate: an image becomes another one of its own."""

from typing import Any

from prefect import flow

from flows.parameters.keys import ReplicateImage
from tasks import creation, replicating, summary


@flow(name="replicate-image", persist_result=False)
def replicate_image(request: ReplicateImage) -> dict[str, Any]:
    """Copy an image. Running it again after any kill goes on where it stopped."""
    blocks = request.blocks.names()
    image = replicating.register(request.request(), blocks)
    if image["status"] != "active":
        with creation.killed_if_it_fails(image["image"], blocks):
            replicating.add_disks(image["image"], blocks)
            creation.encrypt(image["image"], blocks)
            copied = replicating.copy(image["image"], blocks)
            if not copied["linked"]:
                creation.read_back(image["image"], blocks)
            creation.activate(image["image"], blocks)
    result = creation.describe(image["image"], blocks)
    summary.publish("replicate", f"Image {result['name']}", result)
    return result
