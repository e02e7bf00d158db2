"""The steps of sharing. Names of projects and keys pass between tasks; keys do not."""

from typing import Any

from prefect import task

from darkroom import sharing
from tasks.policy import POLICY
from tasks.systems import Blocks, opened


@task(name="share", task_run_name="share with {project}", **POLICY)
def share(image: str, project: str, blocks: Blocks) -> dict[str, Any]:
    """Share the image with one project."""
    with opened(blocks) as systems:
        return sharing.share(systems, image, project)


@task(name="unshare", task_run_name="unshare with {project}", **POLICY)
def unshare(image: str, project: str, blocks: Blocks) -> dict[str, Any]:
    """End the sharing of the image with one project."""
    with opened(blocks) as systems:
        return sharing.unshare(systems, image, project)


@task(name="answer", **POLICY)
def answer(image: str, answer: str, key: str, blocks: Blocks) -> dict[str, Any]:
    """Accept or reject the image."""
    with opened(blocks) as systems:
        return sharing.accept(systems, image, key) if answer == "accept" else sharing.reject(systems, image)
