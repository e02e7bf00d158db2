"""What a project does with its keys: create, disable, enable, rotate. The key manager is the truth about them.

A rotation makes a new version of a key, re-wraps all that the catalog holds under it, and destroys the old version. It
can be killed anywhere and run again, and imports, shares and reads go on beside it: see `catalog.wraps`.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

from darkroom import inbox, keys, rules, sidecar, systems
from darkroom.catalog import Connection, images, wraps
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
        total = sum(kind.count(connection, name) for kind in WRAPPED)
        images.record_event(connection, "rotate-key", None, "started", name)
    seen = changed = 0
    for kind in WRAPPED:
        after = None
        while True:
            with to.catalog.transaction() as connection:
                rows, rewrapped, after = _rewrap(to, connection, kind, key, after)
            seen, changed = seen + rows, changed + rewrapped
            progress(min(seen, total), total)
            if rows < _BATCH:
                break
    return {"key": name, "version": key.version, "rewrapped": changed + _end(to, key)}


def _end(to: Systems, key: Key) -> int:
    """Let go of the old version, with nobody else at the keys, once nothing is under it any more."""
    with to.catalog.transaction() as connection:
        wraps.hold_alone(connection)
        late = 0
        for kind in WRAPPED:
            rows, after = _BATCH, None
            while rows == _BATCH:
                rows, rewrapped, after = _rewrap(to, connection, kind, key, after)
                late += rewrapped
        for row in connection.execute(
            "SELECT * FROM scopes WHERE project_id = current_project() AND key_name = %s", (key.name,)
        ).fetchall():
            systems.describe_scope(to, row)
        images.record_event(connection, "rotate-key", None, "done", f"{key.name} is at version {key.version}")
        to.keys.end_rotation(key.name)
    return late


def _rewrap(
    to: Systems, connection: Connection, kind: Wrapped, key: Key, after: UUID | None
) -> tuple[int, int, UUID | None]:
    """Re-wrap what is under older versions in the next batch of rows; return rows, those changed, and the last."""
    rows = kind.batch(connection, key.name, after, _BATCH)
    old = [row for row in rows if keys.split(key.name, row["wrapped"])[0] != key.version]

    def rewrapped(row: dict[str, Any]) -> tuple[UUID, bytes]:
        context = kind.context(to.settings.project, row["identity"])
        return row["identity"], to.keys.rewrap(key.name, row["wrapped"], context, key.name)

    if old:
        with ThreadPoolExecutor(_THREADS, "re-wrap") as pool:
            kind.store(connection, key.name, pool.map(rewrapped, old))
        if kind.identity == "image_id":
            for row in old:
                sidecar.write(to, connection, row["identity"])
    return len(rows), len(old), rows[-1]["identity"] if rows else after


def _tell(to: Systems, operation: str, name: str) -> None:
    with to.catalog.transaction() as connection:
        images.record_event(connection, operation, None, "done", name)
