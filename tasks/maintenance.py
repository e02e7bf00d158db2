"""The steps that keep a project tidy."""

from typing import Any

from prefect import task

from darkroom import collect as collecting
from darkroom import reap as reaping
from darkroom import rebuilding
from tasks.policy import POLICY
from tasks.progress import reported
from tasks.systems import Blocks, opened


@task(name="reap", **POLICY)
def reap(all_projects: bool, blocks: Blocks) -> dict[str, Any]:
    """Make final what nobody goes on with."""
    with opened(blocks, operator=all_projects) as systems:
        return reaping.reap(systems)


@task(name="collect", **POLICY)
def collect(dry_run: bool, blocks: Blocks) -> dict[str, Any]:
    """Free what nothing refers to."""
    with opened(blocks, operator=True) as systems:
        return collecting.collect(systems, dry_run=dry_run)


@task(name="rebuild", **POLICY)
def rebuild(blocks: Blocks) -> dict[str, Any]:
    """Bring back what the catalog has lost."""
    with opened(blocks, operator=True) as systems, reported("rebuild") as progress:
        return rebuilding.rebuild(systems, progress)
