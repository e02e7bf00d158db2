"""The steps that are special to a copy of an image; the others are those of every creation."""

from typing import Any

from prefect import task

from darkroom import replicating
from darkroom.replicating import ReplicateRequest
from tasks.policy import POLICY
from tasks.progress import reported
from tasks.systems import Blocks, opened


@task(name="register", **POLICY)
def register(request: ReplicateRequest, blocks: Blocks) -> dict[str, str]:
    """Make the copy's row and take its lease, or find those of an attempt that was killed."""
    with opened(blocks) as systems:
        return replicating.register(systems, request)


@task(name="add disks", **POLICY)
def add_disks(image: str, blocks: Blocks) -> dict[str, int]:
    """Record the disks of the copy."""
    with opened(blocks) as systems:
        return replicating.add_disks(systems, image)


@task(name="copy", **POLICY)
def copy(image: str, blocks: Blocks) -> dict[str, Any]:
    """Share the source's data, or read it and upload it."""
    with opened(blocks) as systems, reported("copy") as progress:
        return replicating.copy_disks(systems, image, progress)
