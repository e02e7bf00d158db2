"""The forms of sharing."""

from typing import Literal

from pydantic import Field

from flows.parameters.base import Form, Names, SystemBlocks, blocks, image, offered


class ShareImage(Form):
    """Share an image with other projects."""

    image: str = image("active images")
    projects: Names = offered(
        "projects", title="Projects", description="Their names; written, one a line.", min_length=1, max_length=256
    )
    blocks: SystemBlocks = blocks()


class UnshareImage(ShareImage):
    """End the sharing of an image with other projects."""

    image: str = image("own images")


class AnswerShare(Form):
    """Accept or reject an image that another project shares."""

    image: str = image("incoming images")
    answer: Literal["accept", "reject"] = Field(
        "accept", title="Answer", description="It can be changed later; only an accepted image can be used."
    )
    key: str = offered(
        "keys",
        "",
        title="Wrap under key",
        description="A key of this project, for an encrypted image; none: that of the inbox.",
    )
    blocks: SystemBlocks = blocks()
