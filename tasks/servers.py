"""The steps of servers. Ids pass between tasks, and what the user said; keys and connections do not."""

from typing import Any

from prefect import task

from darkroom import servers, tending
from darkroom.servers import ServerRequest
from tasks.policy import POLICY
from tasks.progress import reported
from tasks.systems import Blocks, opened


@task(name="register", **POLICY)
def register(request: ServerRequest, blocks: Blocks) -> dict[str, str]:
    """Make the rows, and hold the image."""
    with opened(blocks) as systems:
        return servers.register(systems, request)


@task(name="provide disks", **POLICY)
def provide(server: str, request: ServerRequest, blocks: Blocks) -> dict[str, Any]:
    """Make overlays over the image, or copies of it."""
    with opened(blocks) as systems, reported("copy") as progress:
        return servers.provide(systems, server, request, progress)


@task(name="boot", **POLICY)
def boot(server: str, blocks: Blocks) -> dict[str, Any]:
    """Start it."""
    with opened(blocks) as systems:
        return servers.boot(systems, server)


@task(name="undo", **POLICY)
def fail(server: str, reason: str, blocks: Blocks) -> None:
    """Leave nothing of it."""
    with opened(blocks) as systems:
        servers.fail(systems, server, reason)


@task(name="start server", **POLICY)
def start(server: str, blocks: Blocks) -> dict[str, Any]:
    """Start a server that is stopped."""
    with opened(blocks) as systems:
        return servers.start(systems, server)


@task(name="stop server", **POLICY)
def stop(server: str, force: bool, blocks: Blocks) -> dict[str, Any]:
    """Stop a server."""
    with opened(blocks) as systems:
        return servers.stop(systems, server, force=force)


@task(name="delete server", **POLICY)
def delete(server: str, blocks: Blocks) -> dict[str, str]:
    """Remove a server and its disks."""
    with opened(blocks) as systems:
        return servers.delete(systems, server)


@task(name="tend", **POLICY)
def tend(all_projects: bool, blocks: Blocks) -> dict[str, Any]:
    """Have the keepers run, and remove what was given up."""
    with opened(blocks, operator=all_projects) as systems:
        return tending.tend(systems)


def cancelled(name: str, blocks: Blocks) -> None:
    """Undo what a cancelled run began; Prefect calls this where the run was, when the run has ended."""
    with opened(blocks) as systems:
        servers.cancel(systems, name)
