"""The steps of a report."""

from typing import Any

from prefect import task
from prefect.artifacts import create_image_artifact, create_table_artifact

from darkroom import picture, reporting, units, usage
from darkroom.catalog.listing import Filter
from tasks.policy import POLICY
from tasks.systems import Blocks, opened


@task(name="report", **POLICY)
def report(target: str, columns: list[str], which: Filter, all_projects: bool, blocks: Blocks) -> dict[str, Any]:
    """Write the CSV file."""
    with opened(blocks, operator=all_projects) as systems:
        return reporting.report(systems, target, columns, which, all_projects)


@task(name="draw usage", **POLICY)
def draw_usage(all_projects: bool, blocks: Blocks) -> dict[str, Any]:
    """Show what the images take in the store, as a table and as a picture."""
    with opened(blocks, operator=all_projects) as systems:
        found = usage.usage(systems)
        whose = "all projects" if all_projects else f"project {systems.settings.project}"
    rows = [_row("project", row) for row in found["projects"]] + [_row("family", row) for row in found["families"]]
    create_table_artifact(rows, key="usage", description=f"What the images of {whose} take in the store")
    png = picture.draw(found, f"Images of {whose}")
    create_image_artifact(picture.data_uri(png), key="usage-picture", description=f"The images of {whose}")
    names = ("images", "stored", "unique", "deduplicated")
    return {name: sum(row[name] for row in found["projects"]) for name in names}


def _row(kind: str, row: dict[str, Any]) -> dict[str, Any]:
    sizes = {name: units.size(row[name]) for name in ("stored", "unique", "deduplicated")}
    return {"what": kind, "name": row["name"] or "-", "images": row["images"], **sizes}
