"""Where key-encryption keys are kept."""

from prefect.blocks.core import Block
from pydantic import Field

from darkroom import keys


class KeyManager(Block):
    """How to reach a key manager. It holds no key."""

    _block_type_name = "Darkroom key manager"
    _block_type_slug = "darkroom-key-manager"

    url: str = Field(title="URL", description="The path of a key file on the workers")

    def open(self) -> keys.KeyManager:
        """The key manager."""
        return keys.open_keys(self.url)
