"""The steps by which people's decisions about images take effect."""

from typing import Any

from prefect import task

from darkroom import modifying, standing, tagging
from darkroom.modifying import Changes
from tasks.policy import POLICY
from tasks.systems import Blocks, opened

Results = list[dict[str, Any]]


@task(name="modify", **POLICY)
def modify(images: list[str], changes: Changes, blocks: Blocks) -> Results:
    """Change what is written on the images."""
    with opened(blocks) as systems:
        return modifying.modify(systems, images, changes)


@task(name="tag", **POLICY)
def tag(images: list[str], tags: dict[str, str], remove: list[str], blocks: Blocks) -> Results:
    """Give tags, and take tags away."""
    with opened(blocks) as systems:
        return tagging.tag(systems, images, tags, remove)


@task(name="deprecate", **POLICY)
def deprecate(images: list[str], replaced_by: str, blocks: Blocks) -> Results:
    """Mark the images as deprecated."""
    with opened(blocks) as systems:
        return standing.deprecate(systems, images, replaced_by)


@task(name="undeprecate", **POLICY)
def undeprecate(images: list[str], blocks: Blocks) -> Results:
    """Take the mark of deprecation away."""
    with opened(blocks) as systems:
        return standing.undeprecate(systems, images)


@task(name="deactivate", **POLICY)
def deactivate(images: list[str], blocks: Blocks) -> Results:
    """Make the images unusable."""
    with opened(blocks) as systems:
        return standing.deactivate(systems, images)


@task(name="activate", **POLICY)
def activate(images: list[str], blocks: Blocks) -> Results:
    """Make the images usable again."""
    with opened(blocks) as systems:
        return standing.activate(systems, images)
