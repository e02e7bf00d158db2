"""The step of an export."""

from typing import Any

from prefect import task

from darkroom import exporting
from darkroom.catalog import images
from tasks.policy import POLICY
from tasks.progress import reported
from tasks.systems import Blocks, opened


@task(name="export", **POLICY)
def export(image: str, target: str, format: str, blocks: Blocks) -> dict[str, Any]:
    """Write the image to a file or an object."""
    with opened(blocks) as systems, reported("export") as progress:
        found = images.find(systems.catalog, image)
        return exporting.export(systems, str(found["id"]), target, format, progress)
