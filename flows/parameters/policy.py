"""The forms of life by policy, and of checks."""

from pydantic import Field

from flows.parameters.base import Form, SystemBlocks, all_projects, blocks, offered


class ApplyPolicy(Form):
    """Do with the images and keys of a project what its rules ask for."""

    dry_run: bool = Field(False, title="Dry run", description="Only show the plan; change nothing.")
    all_projects: bool = all_projects()
    blocks: SystemBlocks = blocks()


class CheckImages(Form):
    """Read back and verify images, the least lately checked first."""

    image: str = offered(
        "usable images", "", title="Image", description="A name, a family or an id; none: all images of the project."
    )
    minutes: int = Field(
        60, title="Time limit (min)", description="No further image is begun after that.", ge=1, le=10080
    )
    all_projects: bool = all_projects()
    blocks: SystemBlocks = blocks()
