"""The form of the report."""

from typing import Annotated, Literal

from pydantic import Field

from darkroom import reporting
from darkroom.catalog.listing import Filter
from flows.parameters.base import Form, Names, SystemBlocks, all_projects, blocks, by, offered

_TAG = "A key=value or a key each."


class ReportImages(Form):
    """Write the list of images as a CSV file, and draw what they take in the store."""

    target: str = Field(
        "",
        title="Target",
        description="A path on the worker or s3://bucket/key, ending in .csv, which is replaced; empty: "
        "reports/images.csv in the worker's home.",
    )
    columns: Annotated[list[str], by(reporting.check_columns)] = Field(
        [],
        title="Columns",
        description="In this order; none: those of the Image Management Service.",
        json_schema_extra={"items": {"type": "string", "enum": list(reporting.COLUMNS)}},
    )
    statuses: list[Literal["queued", "saving", "active", "deactivated", "killed", "deleted"]] = Field(
        [], title="Statuses", description="None: all but deleted."
    )
    types: list[Literal["system", "data", "full"]] = Field([], title="Types", description="None: all.")
    name: str = Field("", title="Name", description="With * and ? as wild cards; empty: all.")
    family: str = offered("families", "", title="Family", description="None: all.")
    system: str = Field(
        "", title="Operating system", description="The beginning of its name, such as Debian; empty: all."
    )
    tags: Names = Field([], title="With all of these tags", description=_TAG)
    any_tags: Names = Field([], title="With any of these tags", description=_TAG)
    not_tags: Names = Field([], title="Without these tags", description=_TAG)
    all_projects: bool = all_projects()
    blocks: SystemBlocks = blocks()

    def which(self) -> Filter:
        """The filter that the domain takes."""
        return Filter(
            self.tags, self.any_tags, self.not_tags, self.statuses, self.types, self.system, self.name, self.family
        )
