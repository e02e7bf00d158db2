"""The steps that only a capture has."""

from contextlib import suppress
from typing import Any

from prefect import task

from darkroom import capturing, deleting
from darkroom.capturing import CaptureRequest
from darkroom.errors import DarkroomError
from tasks.policy import POLICY
from tasks.progress import reported
from tasks.systems import Blocks, opened


@task(name="register", **POLICY)
def register(request: CaptureRequest, blocks: Blocks) -> dict[str, str]:
    """Make the image's row and take its lease, or find those of an attempt that was killed."""
    with opened(blocks) as systems:
        return capturing.register(systems, request)


@task(name="capture", **POLICY)
def take(image: str, blocks: Blocks) -> dict[str, Any]:
    """The pass over all disks as they are at one instant; tried again, it begins at a new one."""
    with opened(blocks) as systems, reported("capture") as progress:
        return capturing.take(systems, image, progress)


@task(name="settle", **POLICY)
def settle(image: str, blocks: Blocks) -> None:
    """Leave on the server what the next capture needs, and nothing else."""
    with opened(blocks) as systems:
        capturing.settle(systems, image)


def cancelled(name: str, blocks: Blocks) -> None:
    """End the creation of the image after its flow was cancelled; one that is done stays."""
    with opened(blocks) as systems, suppress(DarkroomError):
        deleting.cancel(systems, name)
