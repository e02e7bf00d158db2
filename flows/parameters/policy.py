"""The forms of life by policy, and of checks."""

from pydantic import Field

from flows.parameters.base import Form, SystemBlocks, blocks


class ApplyPolicy(Form):
    """Do with the images of a project what its rules ask for."""

    dry_run: bool = Field(False, title="Dry run", description="Only show the plan; change nothing")
    blocks: SystemBlocks = blocks()


class CheckImages(Form):
    """Read back and verify images, the least lately checked first."""

    image: str = Field("", title="Image", description="Empty: all images of the project")
    minutes: int = Field(60, title="Minutes", description="No further image is begun after that", ge=1, le=10080)
    blocks: SystemBlocks = blocks()
