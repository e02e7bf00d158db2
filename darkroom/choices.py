"""What forms can offer: the names of what there is, as the project sees it."""

from collections import Counter
from contextlib import suppress

from darkroom import sharing, systems
from darkroom.catalog import ProjectForbiddenError, Row, batches, listing, servers
from darkroom.catalog.listing import Filter
from darkroom.compute import hosts
from darkroom.systems import Systems

Choices = dict[str, list[str]]
LIMIT = 100
"""Names of a kind, at most."""
_IMAGES = {
    "usable images": Filter(statuses=("active",)),
    "own images": Filter(statuses=("active", "deactivated"), whose="own"),
    "active images": Filter(statuses=("active",), whose="own"),
    "deactivated images": Filter(statuses=("deactivated",), whose="own"),
    "unfinished images": Filter(statuses=("queued", "saving"), whose="own"),
    "deleted images": Filter(statuses=("deleted",), whose="own"),
}


def present(to: Systems) -> Choices:
    """The names of each kind, the newest first; an id in place of a name that means another image too.

    Of projects those that this account of the catalog may act as. Raises CatalogUnavailableError, and the errors of
    the key manager.
    """
    pages = {kind: listing.page(to.catalog, which, limit=LIMIT) for kind, which in _IMAGES.items()}
    incoming = [{**row, "id": row["image_id"], "own": False} for row in sharing.incoming(to.catalog)]
    return {
        **{kind: _clear(page) for kind, page in pages.items()},
        "encrypted images": [row["name"] for row in pages["own images"] if row["key_name"]],
        "incoming images": _clear(incoming[:LIMIT]),
        "families": list(dict.fromkeys(row["family"] for row in pages["usable images"] if row["family"])),
        "tags": sorted({key for row in pages["own images"] for key in row["tags"]})[:LIMIT],
        "migrations": batches.unfinished(to.catalog, LIMIT),
        "servers": _newest(servers.listed(to.catalog), "name"),
        "volumes": _newest(servers.volumes(to.catalog), "volume"),
        "hosts": [host.name for host in hosts.listed(to.catalog)][:LIMIT],
        "keys": to.keys.names()[:LIMIT],
        "projects": _projects(to),
    }


def _clear(rows: list[Row]) -> list[str]:
    """The names of images, or ids where several have a name: among those that live, a project's own come first."""
    times = Counter(row["name"] for row in rows)

    def is_clear(row: Row) -> bool:
        return times[row["name"]] == 1 or (row["own"] and row["status"] != "deleted")

    return [row["name"] if is_clear(row) else str(row["id"]) for row in rows]


def _newest(rows: list[Row], name: str) -> list[str]:
    return [row[name] for row in sorted(rows, key=lambda row: row["created_at"], reverse=True)][:LIMIT]


def _projects(to: Systems) -> list[str]:
    """The other projects, where the account is the operator's or the owner's of the schema."""
    query = "SELECT name FROM projects WHERE name <> %s ORDER BY created_at DESC LIMIT %s"
    with suppress(ProjectForbiddenError), systems.operator_catalog(to.settings) as operator:
        with operator.transaction() as connection:
            return [row["name"] for row in connection.execute(query, (to.settings.project, LIMIT))]
    return []
