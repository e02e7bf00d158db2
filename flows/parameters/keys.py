"""The forms of operations on keys, and on what images are under which."""

from typing import Annotated

from pydantic import Field, model_validator

from darkroom import rules
from darkroom.errors import DarkroomError
from darkroom.replicating import ReplicateRequest
from flows.parameters.base import Description, Form, SystemBlocks, blocks, by, description, image, new_name, offered

_KEY = "A key of the project."


class ReplicateImage(Form):
    """Copy an image: own or accepted, under the same key, another, or none."""

    image: str = image()
    name: Annotated[str, by(rules.check_name)] = new_name("copy")
    key: str = offered(
        "keys", "", title="Encrypt under key", description="A key of the project; none: as the source is."
    )
    plain: bool = Field(False, title="Not encrypted", description="Whatever the source is.")
    description: Description = description("the source's")
    blocks: SystemBlocks = blocks()

    @model_validator(mode="after")
    def _check(self) -> "ReplicateImage":
        try:
            self.request().check()
        except DarkroomError as error:
            raise ValueError(str(error)) from None
        return self

    def request(self) -> ReplicateRequest:
        """The request that the domain takes."""
        return ReplicateRequest(**self.model_dump(exclude={"blocks"}))


class RekeyImage(Form):
    """Put an encrypted image under another key; no data is rewritten."""

    image: str = image("encrypted images")
    key: str = offered("keys", title="New key", description=_KEY, min_length=1)
    blocks: SystemBlocks = blocks()


class CreateKey(Form):
    """Make a key to encrypt images under."""

    key: Annotated[str, by(rules.check_name)] = new_name("key")
    blocks: SystemBlocks = blocks()


class SwitchKey(Form):
    """Forbid every use of a key, or allow it again."""

    key: str = offered("keys", title="Key", description=_KEY, min_length=1)
    blocks: SystemBlocks = blocks()


class RotateKey(Form):
    """Make a new version of a key, re-wrap all that is under it, and destroy the old version."""

    key: str = offered("keys", title="Key", description=_KEY, min_length=1)
    blocks: SystemBlocks = blocks()
