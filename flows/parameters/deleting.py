"""The forms of delete, restore, purge and cancel."""

from typing import Annotated

from pydantic import Field

from darkroom import rules
from flows.parameters.base import Form, Names, SystemBlocks, all_projects, blocks, by, image, images, offered


def _check_name(name: str) -> None:
    if name:
        rules.check_name(name)


class DeleteImages(Form):
    """Delete images; they can be restored within the project's window."""

    images: Names = images()
    blocks: SystemBlocks = blocks()


class RestoreImage(Form):
    """Bring a deleted image back as it was."""

    image: str = image("deleted images")
    name: Annotated[str, by(_check_name)] = Field(
        "",
        title="New name",
        description="Needed where another image has taken its name; empty: the one it had.",
        max_length=rules.MAX_NAME,
    )
    blocks: SystemBlocks = blocks()


class PurgeImages(Form):
    """Remove deleted images for good: those named, or all whose window has ended."""

    images: Names = offered(
        "deleted images",
        [],
        title="Images",
        description="A name or an id each; written, one a line. None: all whose window has ended.",
    )
    all_projects: bool = all_projects()
    blocks: SystemBlocks = blocks()


class CancelImage(Form):
    """End the creation of an image and remove what there is of it."""

    image: str = image("unfinished images")
    blocks: SystemBlocks = blocks()
