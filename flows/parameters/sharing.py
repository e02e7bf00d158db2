"""The forms of sharing."""

from typing import Literal

from pydantic import Field

from flows.parameters.base import Form, SystemBlocks, blocks, image


class ShareImage(Form):
    """Share an image with other projects, or end that."""

    image: str = image()
    projects: list[str] = Field(
        title="Projects", description="Names of the projects, one each", min_length=1, max_length=256
    )
    blocks: SystemBlocks = blocks()


class AnswerShare(Form):
    """Accept or reject an image that another project shares."""

    image: str = image()
    answer: Literal["accept", "reject"] = Field(
        "accept", title="Answer", description="It can be changed later; only an accepted image can be used"
    )
    key: str = Field(
        "", title="Wrap under key", description="Of this project, for an encrypted image; empty: the inbox's key"
    )
    blocks: SystemBlocks = blocks()
