"""The forms of operations on keys."""

from pydantic import Field

from flows.parameters.base import Form, SystemBlocks, blocks, image


class RekeyImage(Form):
    """Put an encrypted image under another key; no data is rewritten."""

    image: str = image()
    key: str = Field(title="New key", description="A key of the key manager", min_length=1)
    blocks: SystemBlocks = blocks()


class RotateKey(Form):
    """Make a new version of a key, re-wrap all that is under it, and destroy the old version."""

    key: str = Field(title="Key", description="A key of the key manager", min_length=1)
    blocks: SystemBlocks = blocks()
