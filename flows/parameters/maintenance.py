"""The forms of what keeps a project tidy."""

from pydantic import Field

from flows.parameters.base import Form, SystemBlocks, all_projects, blocks


class ReapImages(Form):
    """Kill images whose import was given up."""

    all_projects: bool = all_projects()
    blocks: SystemBlocks = blocks()


class CollectGarbage(Form):
    """Free what nothing refers to, in all projects."""

    dry_run: bool = Field(False, title="Dry run", description="Only tell what would be freed; change nothing.")
    blocks: SystemBlocks = blocks()


class RebuildCatalog(Form):
    """Add to the catalog all that the store has and it does not."""

    blocks: SystemBlocks = blocks()
