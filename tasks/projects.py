"""The steps of what a project sets for itself."""

from dataclasses import replace
from typing import Any

from prefect import task

from darkroom import inbox, projects, sharing
from tasks.policy import POLICY
from tasks.systems import Blocks, opened


@task(name="move-inbox", **POLICY)
def move_inbox(key: str, renew: bool, blocks: Blocks) -> dict[str, Any]:
    """Put the inbox under a key."""
    with opened(blocks) as systems:
        inbox.move(systems.catalog, systems.keys, key, renew=renew)
        return {"project": systems.settings.project, "key": key, "renewed": renew}


@task(name="trust", **POLICY)
def trust(owner: str, trusted: bool, blocks: Blocks) -> dict[str, Any]:
    """Trust an owner, or no longer; return all that are trusted."""
    with opened(blocks) as systems:
        sharing.trust(systems.catalog, owner, trusted=trusted)
        return {"project": systems.settings.project, "trusted": sharing.trusted(systems.catalog)}


@task(name="projects", **POLICY)
def names(blocks: Blocks) -> list[str]:
    """All projects by name."""
    with opened(blocks, operator=True) as systems:
        return [row["name"] for row in projects.listed(systems.catalog)]


def each(all_projects: bool, blocks: Blocks) -> list[Blocks]:
    """What a flow works with to act as each project in turn; or as that of the blocks alone."""
    return [replace(blocks, acting=name) for name in names(blocks)] if all_projects else [blocks]
