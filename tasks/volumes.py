"""The steps of volumes."""

from typing import Any

from prefect import task

from darkroom import volumes
from darkroom.volumes import VolumeRequest
from tasks.policy import POLICY
from tasks.progress import reported
from tasks.systems import Blocks, opened


@task(name="register", **POLICY)
def register(request: VolumeRequest, blocks: Blocks) -> dict[str, str]:
    """Make the row, and hold the image."""
    with opened(blocks) as systems:
        return volumes.register(systems, request)


@task(name="provide disk", **POLICY)
def provide(volume: str, full_copy: bool, blocks: Blocks) -> dict[str, Any]:
    """Make an overlay over the image, or a copy of it."""
    with opened(blocks) as systems, reported("copy") as progress:
        return volumes.provide(systems, volume, progress, full_copy=full_copy)


@task(name="undo", **POLICY)
def fail(volume: str, reason: str, blocks: Blocks) -> None:
    """Leave nothing of it."""
    with opened(blocks) as systems:
        volumes.fail(systems, volume, reason)


@task(name="attach", **POLICY)
def attach(volume: str, server: str, blocks: Blocks) -> dict[str, Any]:
    """Give a volume to a server."""
    with opened(blocks) as systems:
        return volumes.attach(systems, volume, server)


@task(name="detach", **POLICY)
def detach(volume: str, blocks: Blocks) -> dict[str, Any]:
    """Take a volume from its server."""
    with opened(blocks) as systems:
        return volumes.detach(systems, volume)


@task(name="delete volume", **POLICY)
def delete(volume: str, blocks: Blocks) -> dict[str, str]:
    """Remove a volume."""
    with opened(blocks) as systems:
        return volumes.delete(systems, volume)


def cancelled(name: str, blocks: Blocks) -> None:
    """Undo what a cancelled run began; Prefect calls this where the run was, when the run has ended."""
    with opened(blocks) as systems:
        volumes.cancel(systems, name)
