"""Where servers run."""

from prefect.blocks.core import Block
from pydantic import Field


class LibvirtHost(Block):
    """A compute host: the one on which the worker runs."""

    _block_type_name = "Darkroom compute host"
    _block_type_slug = "darkroom-compute-host"

    name: str = Field(title="Name", description="Of the host in the catalog, where `darkroom host add` put it")

    def open(self) -> str:
        """The name, by which the domain finds the host."""
        return self.name
