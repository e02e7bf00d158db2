"""The form of the report."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from darkroom import reporting
from darkroom.catalog.listing import Filter
from flows.parameters.base import Form, Groups, Names, SystemBlocks, all_projects, blocks, by, offered

_TAG = "Chosen: a key, with whatever value; written: a key or key=value, one a line."


class ReportImages(Form):
    """Write the list of images as a CSV file, and draw what they take in the store."""

    groups: ClassVar[Groups] = {
        "Which images": ("statuses", "types", "name", "family", "system", "tags", "any_tags", "not_tags"),
    }

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
    all_projects: bool = all_projects()
    statuses: list[Literal["queued", "saving", "active", "deactivated", "killed", "deleted"]] = Field(
        [], title="Statuses", description="None: all but deleted."
    )
    types: list[Literal["system", "data", "full", "iso"]] = Field([], title="Types", description="None: all.")
    name: str = Field("", title="Name", description="With * and ? as wild cards; empty: all.")
    family: str = offered("families", "", title="Family", description="None: all.")
    system: str = Field(
        "", title="Operating system", description="The beginning of its name, such as Debian; empty: all."
    )
    tags: Names = offered("tags", [], title="With all of these tags", description=_TAG)
    any_tags: Names = offered("tags", [], title="With any of these tags", description=_TAG)
    not_tags: Names = offered("tags", [], title="Without these tags", description=_TAG)
    blocks: SystemBlocks = blocks()

    def which(self) -> Filter:
        """The filter that the domain takes."""
        return Filter(
            self.tags, self.any_tags, self.not_tags, self.statuses, self.types, self.system, self.name, self.family
        )
