"""The form of the report."""

from typing import Literal

from pydantic import Field

from darkroom.catalog.listing import Filter
from flows.parameters.base import Form, SystemBlocks, blocks
from flows.parameters.maintenance import all_projects

_TAG = "Each key=value, or a key alone"


class ReportImages(Form):
    """Write the list of images as a CSV file, and draw what they take in the store."""

    target: str = Field(
        "",
        title="Target",
        description="A path on the worker or s3://bucket/key, which is replaced; empty: reports/images.csv in its home",
    )
    columns: list[str] = Field([], title="Columns", description="By name, in order; empty: those of IMS")
    tags: list[str] = Field([], title="With all of these tags", description=_TAG)
    any_tags: list[str] = Field([], title="With any of these tags", description=_TAG)
    not_tags: list[str] = Field([], title="Without these tags", description=_TAG)
    statuses: list[Literal["queued", "saving", "active", "deactivated", "killed", "deleted"]] = Field(
        [], title="Statuses", description="Empty: all but deleted"
    )
    types: list[Literal["system", "data", "full"]] = Field([], title="Types", description="Empty: all")
    system: str = Field("", title="Operating system", description="The beginning of its name, such as Debian")
    name: str = Field("", title="Name", description="With * and ? as wild cards")
    family: str = Field("", title="Family", description="Empty: all")
    all_projects: bool = all_projects()
    blocks: SystemBlocks = blocks()

    def which(self) -> Filter:
        """The filter that the domain takes."""
        return Filter(
            self.tags, self.any_tags, self.not_tags, self.statuses, self.types, self.system, self.name, self.family
        )
