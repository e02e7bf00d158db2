"""Who acts."""

from prefect.blocks.core import Block
from pydantic import Field, SecretStr


class Project(Block):
    """The project that a run acts as."""

    _block_type_name = "Darkroom project"
    _block_type_slug = "darkroom-project"

    name: str = Field(
        "", title="Name", description="The project's name in the catalog; empty: as the worker's environment"
    )
    dsn: SecretStr = Field(
        SecretStr(""),
        title="DSN",
        description="Of the project's own account of the catalog, readable by Prefect's users; empty: the worker's",
    )
