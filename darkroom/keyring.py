"""What a project does with its keys: create, disable, enable, rotate. The key manager is the truth about them.

A rotation makes a new version of a key, re-wraps all that the catalog holds under it, and destroys the old version. It
can be killed anywhere and run again, and imports, shares and reads go on beside it: see `catalog.wraps`.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

from darkroom import inbox, keys, rules, sidecar, systems
from darkroom.catalog import Connection, Row, images, wraps
from darkroom.catalog.wraps import Wrapped
from darkroom.compute import diskkeys
from darkroom.keys import Key
from darkroom.systems import Systems

Progress = Callable[[int, int], None]
WRAPPED = (
    Wrapped("scopes", "uuid", "wrapped_secret", systems.scope_secret_context),
    Wrapped("wraps", "image_id", "wrapped", systems.data_key_context),
    Wrapped("inboxes", "project_id", "wrapped", lambda project, _: inbox.context(project)),
    Wrapped("server_disks", "id", "data_key", diskkeys.data_key_context),
    Wrapped("server_disks", "id", "disk_key", diskkeys.disk_key_context),
)
"""All that is kept under a key: a table that is not here would be lost with the old version."""
_BATCH = 64
_THREADS = 8


def create(to: Systems, name: str) -> None:
    """Make a key; raises NameInvalidError, KeyExistsError."""
    rules.check_name(name)
    to.keys.create(name)
    _tell(to, "create-key", name)


def set_enabled(to: Systems, name: str, enabled: bool) -> None:
    """Allow or forbid every use of a key; raises KeyMissingError."""
    to.keys.set_enabled(name, enabled)
    _tell(to, "enable-key" if enabled else "disable-key", name)


def rotate(to: Systems, name: str, progress: Progress) -> dict[str, Any]:
    """Bring all that is under a key under a new version of it, and destroy the old one; return how much that was.

    Goes on with a rotation that was killed. Raises what a use of the key raises, before anything has changed.
    """
    with to.catalog.transaction() as connection:
        wraps.hold_alone(connection)
        key = to.keys.begin_rotation(name)
        total = sum(kind.count(connection, name, _prefix(key)) for kind in WRAPPED)
        images.record_event(connection, "rotate-key", None, "started", name)
    done = 0
    while changed := _rewrap(to, key):
        done += changed
        progress(min(done, total), total)
    return {"key": name, "version": key.version, "rewrapped": done + _end(to, key)}


def _prefix(key: Key) -> bytes:
    """What all wraps by the current version begin with."""
    return keys.versioned(key.version, b"")


def _rewrap(to: Systems, key: Key) -> int:
    """Re-wrap a batch of what is under older versions, in a transaction of its own; 0 if there is nothing left.

    Or if another process has ended this rotation and begun the next one, to which all of it is behind.
    """
    if to.keys.find(key.name).version != key.version:
        return 0
    for kind in WRAPPED:
        with to.catalog.transaction() as connection:
            if changed := _rewrap_batch(to, connection, kind, key):
                return changed
    return 0


def _rewrap_batch(to: Systems, connection: Connection, kind: Wrapped, key: Key) -> int:
    rows = kind.batch(connection, key.name, _prefix(key), _BATCH)

    def rewrapped(row: Row) -> tuple[UUID, bytes]:
        context = kind.context(to.settings.project, row["identity"])
        return row["identity"], to.keys.rewrap(key.name, row["wrapped"], context, key.name)

    if rows:
        with ThreadPoolExecutor(_THREADS, "re-wrap") as pool:
            kind.store(connection, key.name, pool.map(rewrapped, rows))
        if kind.table == "wraps":
            for row in rows:
                sidecar.write(to, connection, row["identity"])
    return len(rows)


def _end(to: Systems, key: Key) -> int:
    """Let go of the old version, with nobody else at the keys, once nothing is under it; return how much still was.

    Should another process have ended this rotation, and perhaps begun the next one, that is its own to end.
    """
    late = 0
    with to.catalog.transaction() as connection:
        wraps.hold_alone(connection)
        if to.keys.find(key.name).version != key.version:
            return 0
        for kind in WRAPPED:
            while changed := _rewrap_batch(to, connection, kind, key):
                late += changed
        query = "SELECT * FROM scopes WHERE project_id = current_project() AND key_name = %s"
        for row in connection.execute(query, (key.name,)).fetchall():
            systems.describe_scope(to, row)
        images.record_event(connection, "rotate-key", None, "done", f"{key.name} is at version {key.version}")
        to.keys.end_rotation(key.name)
    return late


def _tell(to: Systems, operation: str, name: str) -> None:
    with to.catalog.transaction() as connection:
        images.record_event(connection, operation, None, "done", name)
