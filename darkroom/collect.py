"""Collect: find what nothing refers to. This is the plan; it changes nothing.

The order of deleting is the reverse of writing: unreferenced in the catalog, then the object, then the row.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from uuid import UUID

from darkroom import packs
from darkroom.catalog import Catalog, Connection
from darkroom.store import Store


@dataclass(frozen=True, slots=True)
class Plan:
    """What a collection would remove: packs without references, and objects that no row names; sizes in bytes."""

    packs: dict[UUID, int] = field(default_factory=dict)
    objects: dict[str, int] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes that would be freed."""
        return sum(self.packs.values()) + sum(self.objects.values())


def plan(operator: Catalog, store: Store) -> Plan:
    """Compare the store with the catalog, as the operator sees it.

    The store is listed first: an object that appears later has a row already, so nothing new is taken for lost.
    """
    objects = dict(store.list(""))
    query = """SELECT p.uuid, s.uuid AS scope, EXISTS (SELECT FROM refs r WHERE r.pack_id = p.id) AS used
        FROM packs p JOIN scopes s ON s.id = p.scope_id"""
    with operator.transaction() as connection:
        rows = connection.execute(query).fetchall()
        known = set(_scopes(connection))
        images = {str(row["id"]) for row in connection.execute("SELECT id FROM images WHERE status <> 'killed'")}
    unused = {}
    for row in rows:
        key = packs.object_key(row["scope"], row["uuid"])
        size = objects.pop(key, 0)
        if not row["used"]:
            unused[row["uuid"]] = size
    lost = {key: size for key, size in objects.items() if key not in known and not _belongs(key, images)}
    return Plan(unused, lost)


def _belongs(key: str, images: set[str]) -> bool:
    kind, _, rest = key.partition("/")
    return kind == "images" and rest.partition("/")[0] in images


def _scopes(connection: Connection) -> Iterator[str]:
    for row in connection.execute("SELECT uuid FROM scopes"):
        yield f"scopes/{row['uuid']}/scope.json"
