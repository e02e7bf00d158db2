"""The forms of delete, restore, purge and cancel."""

from typing import Annotated

from pydantic import Field

from darkroom import rules
from flows.parameters.base import Form, SystemBlocks, blocks, by, image
from flows.parameters.maintenance import all_projects

_EACH = "Each an id, an unambiguous prefix of one, or a name"


def _check_name(name: str) -> None:
    if name:
        rules.check_name(name)


class DeleteImages(Form):
    """Delete images; they can be restored within the project's window."""

    images: list[str] = Field(title="Images", description=_EACH, min_length=1)
    blocks: SystemBlocks = blocks()


class RestoreImage(Form):
    """Bring a deleted image back as it was."""

    image: str = image()
    name: Annotated[str, by(_check_name)] = Field(
        "", title="New name", description="Needed where another image has taken its name; empty: the one it had"
    )
    blocks: SystemBlocks = blocks()


class PurgeImages(Form):
    """Remove deleted images for good: those named, or all whose window has ended."""

    images: list[str] = Field([], title="Images", description=f"{_EACH}; empty: all whose window has ended")
    all_projects: bool = all_projects()
    blocks: SystemBlocks = blocks()


class CancelImage(Form):
    """End the creation of an image and remove what there is of it."""

    image: str = image()
    blocks: SystemBlocks = blocks()
