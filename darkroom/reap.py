"""Reap: what was begun and not gone on with becomes final, with a reason, and leaves nothing behind."""

from typing import Any

from darkroom import creation
from darkroom.catalog import Connection, Row, uploads
from darkroom.systems import Systems

_DAY = 24 * 3600.0


def reap(to: Systems) -> dict[str, Any]:
    """Kill every image whose lease ran out more than a day ago; remove what killed writers left.

    Those of the project, or for the operator of all projects.
    Returns the ids of the images and the number of files or uploads that were removed from the store.
    """
    killed = []
    while row := _take(to):
        creation.remove_rest(to, row)
        killed.append(str(row["id"]))
    return {"images": killed, "leftovers": to.store.sweep(_DAY)}


def _take(to: Systems) -> Row | None:
    """Kill one image that is due; None when there is none."""
    with to.catalog.transaction() as connection:
        row = _due(connection)
        if row:
            message = f"nobody went on with it for {uploads.RESUME_WINDOW}; run {row['operation']} again"
            creation.kill(connection, row, {"code": "lease-expired", "message": message})
        return row


def _due(connection: Connection) -> Row | None:
    query = """SELECT i.* FROM leases l JOIN images i ON i.id = l.image_id
        WHERE l.reap_at < now() AND i.status IN ('queued', 'saving') LIMIT 1 FOR UPDATE OF l SKIP LOCKED"""
    return connection.execute(query).fetchone()
