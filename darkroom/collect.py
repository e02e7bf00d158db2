"""Collect: free what nothing refers to. First a plan, which changes nothing and can be printed, then its execution.

The order of deleting is the reverse of writing: unreferenced in the catalog, then the object, then the row. A pack is
locked against new references before it is looked whether there are any. A collection never waits for an import: what
one has locked in this moment is left to the next collection.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg

from darkroom import audit, compaction, sidecar
from darkroom.catalog import Catalog, CatalogUnavailableError, Connection, images
from darkroom.errors import ConflictError
from darkroom.store import ObjectMissingError, Store
from darkroom.systems import Systems

_LOCK = 0x636F6C6C  # "coll"
_PATIENCE = "3s"
_BATCH = 200
_DELETERS = 8


class CollectingError(ConflictError):
    """Another collection, or a rebuild of the catalog, is running."""

    code = "collecting"
    what = "another collection or a rebuild is running"
    default_remedy = "wait for it to end"


class CatalogBehindError(ConflictError):
    """The store has images that the catalog does not know, so that all of their data would be taken for garbage."""

    code = "catalog-behind"
    what = "the store has images or scopes that the catalog does not know"
    default_remedy = "run `darkroom rebuild-catalog`, which adds them; or see that catalog and store belong together"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a collection would do; sizes in bytes.

    `packs` without references and `objects` that no row names are removed. The live chunks of `sparse` packs are
    copied, and the packs removed. `sidecars` of these images are written, since they are behind. `owners`: projects by
    pack.
    """

    packs: dict[UUID, int] = field(default_factory=dict)
    objects: dict[str, int] = field(default_factory=dict)
    sparse: list[compaction.Sparse] = field(default_factory=list)
    sidecars: list[UUID] = field(default_factory=list)
    owners: dict[UUID, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes that would be freed."""
        return sum(self.packs.values()) + sum(self.objects.values()) + sum(pack.dead_size for pack in self.sparse)

    @property
    def projects(self) -> dict[str, int]:
        """Bytes that would be freed in packs, by project."""
        found: dict[str, int] = {}
        for pack, size in [*self.packs.items(), *((pack.id, pack.dead_size) for pack in self.sparse)]:
            name = self.owners[pack]
            found[name] = found.get(name, 0) + size
        return found


def plan(operator: Catalog, store: Store) -> Plan:
    """Compare the store with the catalog, as the operator sees it; raises CatalogBehindError.

    The store is listed first: an object that appears later has a row already, so nothing new is taken for lost. The
    listing is kept in the catalog meanwhile, so memory holds only what is to go.
    """
    with operator.transaction() as connection:
        _list(connection, store)
        _require_known(connection, store)
        unused = connection.execute(_UNUSED).fetchall()
        lost = {row["key"]: row["size"] for row in connection.execute(_LOST)}
        sparse = compaction.find(connection)
        behind = sidecar.behind(
            connection, "EXISTS (SELECT FROM listed WHERE key = 'images/' || i.id || '/image.json')"
        )
    owners = {row["uuid"]: row["project"] for row in unused} | {pack.id: pack.project for pack in sparse}
    return Plan({row["uuid"]: row["size"] for row in unused}, lost, sparse, behind, owners)


# The tables of a plan: every object of the store, then what of it has no owner. A killed image owns nothing.
_LISTED = "CREATE TEMPORARY TABLE listed (key text NOT NULL, size bigint NOT NULL) ON COMMIT DROP"
_UNUSED = """SELECT o.uuid, o.project, coalesce(l.size, 0) AS size FROM pack_objects o LEFT JOIN listed l USING (key)
    WHERE NOT EXISTS (SELECT FROM refs r JOIN images i ON i.id = r.image_id
        WHERE r.pack_id = o.id AND i.status <> 'killed')"""
_LOST = """WITH unowned AS MATERIALIZED (
        SELECT l.key, l.size FROM listed l LEFT JOIN pack_objects o USING (key) WHERE o.key IS NULL
    ) SELECT key, size FROM unowned
    WHERE key ~ '^scopes/[0-9a-f-]{36}/packs/[0-9a-f]{2}/[0-9a-f-]{36}$' OR (key ~ '^images/[0-9a-f-]{36}/'
        AND NOT EXISTS (SELECT FROM images i WHERE i.id::text = split_part(key, '/', 2) AND i.status <> 'killed'))"""
_UNKNOWN = """SELECT l.key FROM listed l
    WHERE l.key LIKE 'images/%/image.json' AND l.key ~ '^images/[0-9a-f-]{36}/image[.]json$'
        AND NOT EXISTS (SELECT FROM images i WHERE i.id::text = split_part(l.key, '/', 2))
    UNION ALL SELECT l.key FROM listed l
    WHERE l.key LIKE 'scopes/%/scope.json' AND l.key ~ '^scopes/[0-9a-f-]{36}/scope[.]json$'
        AND NOT EXISTS (SELECT FROM scopes s WHERE s.uuid::text = split_part(l.key, '/', 2))"""


def _list(connection: Connection, store: Store) -> None:
    connection.execute(_LISTED)
    with connection.cursor() as cursor, cursor.copy("COPY listed FROM STDIN") as copy:
        for entry in store.list(""):
            copy.write_row(entry)
    connection.execute("ANALYZE listed")


def _require_known(connection: Connection, store: Store) -> None:
    """Raise CatalogBehindError if the store knows more than the catalog: after a loss, or with a backup put back."""
    unknown = [row["key"] for row in connection.execute(_UNKNOWN) if _is_there(store, row["key"])]
    if unknown:
        raise CatalogBehindError(unknown[0], "a row for each", f"{len(unknown)} without")


def _is_there(store: Store, key: str) -> bool:
    """Whether an object is there still: a purge may have removed it since it was listed, and its row with it."""
    try:
        store.size(key)
    except ObjectMissingError:
        return False
    return True


def collect(to: Systems, *, dry_run: bool = False) -> dict[str, Any]:
    """Execute a plan as the operator, or only tell it; return what was done, with the bytes freed, by project too.

    Killed anywhere, the next one ends it. Raises CollectingError, CatalogBehindError, and what the store raises.
    """
    with alone(to.catalog):
        if not dry_run:
            audit.sum_up(to.catalog)
            _forget_killed(to.catalog)
        found = plan(to.catalog, to.store)
        if dry_run:
            return _told(found, [])
        gone = bury(to, list(found.packs))
        _delete(to.store, found.objects)
        compacted, damaged = compaction.compact(to, found.sparse, bury)
        for image in found.sidecars:
            with to.catalog.transaction() as connection:
                sidecar.write(to, connection, image)
        packs = {pack: size for pack, size in found.packs.items() if pack in gone}
        result = _told(Plan(packs, found.objects, compacted, found.sidecars, found.owners), damaged)
        with to.catalog.transaction() as connection:
            images.record_event(connection, "collect", None, "done", json.dumps(result))
    return result


def _told(plan: Plan, damaged: list[str]) -> dict[str, Any]:
    return {
        "packs": len(plan.packs),
        "objects": len(plan.objects),
        "compacted": len(plan.sparse),
        "sidecars": len(plan.sidecars),
        "freed_size": plan.size,
        "projects": plan.projects,
        "damaged": damaged,
    }


@contextmanager
def alone(operator: Catalog) -> Iterator[None]:
    """Be the only collection or rebuild for the block; the catalog lets go when this process ends, however it ends.

    Raises CollectingError, after a moment: a server takes that long to notice the end of a process that was killed.
    """
    try:
        with operator.transaction() as connection:
            connection.execute(f"SET LOCAL lock_timeout = '{_PATIENCE}'")
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            yield
    except CatalogUnavailableError as error:
        if isinstance(error.__cause__, psycopg.errors.LockNotAvailable):
            raise CollectingError("catalog") from None
        raise


def _forget_killed(operator: Catalog) -> None:
    """Drop references of killed images: an upload that did not know yet that it had been killed can have taken one."""
    with operator.transaction() as connection:
        connection.execute("DELETE FROM refs USING images i WHERE i.id = refs.image_id AND i.status = 'killed'")


def bury(to: Systems, packs: Sequence[UUID]) -> set[UUID]:
    """Remove those of the packs that nothing refers to: from the index, then the object, then the row; return them."""
    gone: set[UUID] = set()
    for start in range(0, len(packs), _BATCH):
        with to.catalog.transaction() as connection:
            dead = _condemn(connection, packs[start : start + _BATCH])
        _delete(to.store, dead.values())
        with to.catalog.transaction() as connection:
            connection.execute("DELETE FROM packs WHERE uuid = ANY(%s) AND status = 'dead'", (list(dead),))
        gone.update(dead)
    return gone


def _condemn(connection: Connection, packs: Sequence[UUID]) -> dict[UUID, str]:
    """Make dead those without a reference, so that no upload finds them any more; the keys of their objects."""
    query = "SELECT id FROM packs WHERE uuid = ANY(%s) ORDER BY id FOR UPDATE SKIP LOCKED"
    locked = [row["id"] for row in connection.execute(query, (list(packs),))]
    # A statement of its own, whose snapshot is later than the locks: a reference that it does not see cannot be taken.
    connection.execute(
        """UPDATE packs SET status = 'dead' WHERE id = ANY(%s)
        AND NOT EXISTS (SELECT FROM refs WHERE refs.pack_id = packs.id)""",
        (locked,),
    )
    query = "SELECT id, uuid, key FROM pack_objects WHERE id = ANY(%s) AND status = 'dead'"
    dead = connection.execute(query, (locked,)).fetchall()
    connection.execute("DELETE FROM chunks WHERE pack_id = ANY(%s)", ([row["id"] for row in dead],))
    return {row["uuid"]: row["key"] for row in dead}


def _delete(store: Store, keys: Iterable[str]) -> None:
    with ThreadPoolExecutor(_DELETERS, "delete") as pool:
        list(pool.map(store.delete, keys))
