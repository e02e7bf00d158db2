"""Who acts."""

from prefect.blocks.core import Block
from pydantic import Field


class Project(Block):
    """The project that a run acts as."""

    _block_type_name = "Darkroom project"
    _block_type_slug = "darkroom-project"

    name: str = Field(title="Name", description="The project's name in the catalog")
