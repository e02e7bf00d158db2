"""Where the catalog is."""

from prefect.blocks.core import Block
from pydantic import Field, SecretStr


class CatalogDatabase(Block):
    """A Postgres database."""

    _block_type_name = "Darkroom catalog"
    _block_type_slug = "darkroom-catalog"

    dsn: SecretStr = Field(
        title="DSN",
        description="postgresql://… of the account that owns the schema or may create it, or of a project's own",
    )

    def open(self) -> str:
        """The DSN, which `darkroom.systems.open_systems` connects to."""
        return self.dsn.get_secret_value()
