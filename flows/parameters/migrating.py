"""The forms of a batch migration."""

from pydantic import Field

from flows.parameters.base import Form, SystemBlocks, blocks, offered


class MigrateImages(Form):
    """Import all that a table of sources names."""

    source: str = Field(
        title="Table",
        description="A CSV file: a path on the worker, s3://bucket/key or http(s)://…; a row for each image, columns "
        "as the fields of an import (source and name at least), and tag:KEY.",
        min_length=1,
    )
    report: str = Field(
        "",
        title="Report",
        description="A CSV file to write, row by row: a path on the worker or s3://bucket/key; empty: none.",
    )
    concurrency: int = Field(4, title="Imports at once", description="In each worker.", ge=1, le=64)
    workers: int = Field(1, title="Workers", description="Of the pool, that share the table.", ge=1, le=256)
    retry_failed: bool = Field(False, title="Retry what failed", description="Try the rows again that failed before.")
    blocks: SystemBlocks = blocks()


class HelpMigration(Form):
    """Share in a batch migration that is under way."""

    batch: str = offered("migrations", title="Batch", description="The id that the migration shows.", min_length=1)
    concurrency: int = Field(4, title="Imports at once", description="In this worker.", ge=1, le=64)
    blocks: SystemBlocks = blocks()
