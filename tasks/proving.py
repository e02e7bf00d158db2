"""The steps of boot proofs, and the picture of one in the Prefect UI."""

import base64
from typing import Any

from prefect import task
from prefect.artifacts import create_image_artifact

from darkroom import proving
from darkroom.catalog import images
from darkroom.compute import hosts
from darkroom.proving import ProofRequest
from tasks.policy import POLICY
from tasks.progress import reported
from tasks.systems import Blocks, opened


@task(name="boot", **POLICY)
def prove(image: str, request: ProofRequest, blocks: Blocks) -> dict[str, Any]:
    """Boot the image in a throw-away guest and keep what it showed."""
    with opened(blocks) as systems, reported("boot") as progress:
        found = images.find(systems.catalog, image)
        try:
            return proving.prove(systems, str(found["id"]), request, progress)
        finally:
            _picture(systems, found)


def _picture(systems: Any, image: Any) -> None:
    """Show the screen as an artifact, which Prefect keeps in the clear: of an image that is not encrypted."""
    if image["key_name"] is None:
        try:
            _, screen = proving.seen(systems, image)
        except proving.ProofMissingError:
            return
        if screen:
            url = "data:image/png;base64," + base64.b64encode(screen).decode()
            create_image_artifact(url, key="boot", description=f"The screen of {image['name']}")


@task(name="find the host", **POLICY)
def find_host(name: str, blocks: Blocks) -> str:
    """The compute host to boot on, before anything is begun that needs it."""
    with opened(blocks) as systems:
        return hosts.find(systems.catalog, name).name


@task(name="find the oldest proofs", **POLICY)
def oldest(count: int, blocks: Blocks) -> list[str]:
    """The images to prove again."""
    with opened(blocks) as systems:
        return proving.oldest(systems, count)
