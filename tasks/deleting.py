"""The steps of delete, restore, purge and cancel."""

from typing import Any

from prefect import task

from darkroom import deleting
from tasks.policy import POLICY
from tasks.systems import Blocks, opened


@task(name="delete", **POLICY)
def delete(image: str, blocks: Blocks) -> dict[str, Any]:
    """Delete one image."""
    with opened(blocks) as systems:
        return deleting.delete(systems, image)


@task(name="restore", **POLICY)
def restore(image: str, name: str, blocks: Blocks) -> dict[str, Any]:
    """Bring one image back."""
    with opened(blocks) as systems:
        return deleting.restore(systems, image, name)


@task(name="purge", **POLICY)
def purge(image: str, blocks: Blocks) -> dict[str, Any]:
    """Remove one deleted image for good."""
    with opened(blocks) as systems:
        return deleting.purge(systems, image)


@task(name="purge-due", **POLICY)
def purge_due(all_projects: bool, blocks: Blocks) -> dict[str, Any]:
    """Remove for good what has been deleted for long."""
    with opened(blocks, operator=all_projects) as systems:
        return deleting.purge_due(systems)


@task(name="cancel", **POLICY)
def cancel(image: str, blocks: Blocks) -> dict[str, Any]:
    """End the creation of an image."""
    with opened(blocks) as systems:
        return deleting.cancel(systems, image)
