"""Batches of imports: their rows are claimed, one by one, by whichever process asks next."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from darkroom.catalog import Catalog, Connection, Row, images, uploads
from darkroom.errors import MissingError

MAX_ATTEMPTS = 8
_LONGEST_WAIT = 60


class BatchMissingError(MissingError):
    """No such batch, or one that the project may not know of."""

    code = "batch-not-found"
    what = "there is no such batch"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a row: an image, or the code and the reason why there is none."""

    number: int
    seconds: float
    image: UUID | None = None
    virtual_size: int | None = None
    new_size: int | None = None
    code: str | None = None
    reason: str | None = None
    again: bool = False
    """The reason may pass: the row waits for its next attempt, if it has one left."""


def create(connection: Connection, columns: dict[str, Any], rows: Mapping[int, dict[str, Any]]) -> UUID:
    """Make the batch of these rows, or find the one that was made of the same rows; it is no longer stopped.

    `columns` holds source, digest, report and run.
    """
    found = connection.execute(
        """INSERT INTO batches (source, digest, report, run) VALUES (%(source)s, %(digest)s, %(report)s, %(run)s)
        ON CONFLICT (project_id, digest) DO UPDATE
        SET source = excluded.source, report = excluded.report, run = excluded.run, stopped = false
        RETURNING id, xmax = 0 AS made""",
        columns,
    ).fetchone()
    assert found
    batch: UUID = found["id"]
    if found["made"]:
        connection.execute(
            """INSERT INTO batch_rows (batch_id, number, request)
            SELECT %s, number, request FROM unnest(%s::integer[], %s::jsonb[]) AS r (number, request)""",
            (batch, list(rows), [Jsonb(request) for request in rows.values()]),
        )
    images.record_event(connection, "migrate", None, "started", f"{len(rows)} rows of {columns['source']}")
    return batch


def get(catalog: Catalog, batch: str) -> Row:
    """A batch; raises BatchMissingError."""
    found = catalog.rows("SELECT * FROM batches WHERE id = %s", (batch,))
    if not found:
        raise BatchMissingError(batch)
    return found[0]


def unfinished(catalog: Catalog, limit: int) -> list[str]:
    """The ids of batches that have rows to do and were not stopped, newest first."""
    query = """SELECT b.id::text FROM batches b WHERE NOT b.stopped AND EXISTS (SELECT FROM batch_rows r
        WHERE r.batch_id = b.id AND r.status IN ('queued', 'running')) ORDER BY b.created_at DESC LIMIT %s"""
    with catalog.transaction() as connection:
        return [row["id"] for row in connection.execute(query, (limit,))]


def retry_failed(connection: Connection, batch: UUID) -> int:
    """Have the rows that failed tried again; how many they are."""
    return connection.execute(
        """UPDATE batch_rows SET status = 'queued', attempts = 0, due_at = now(), code = NULL, reason = NULL
        WHERE batch_id = %s AND status = 'failed'""",
        (batch,),
    ).rowcount


def stop(catalog: Catalog, run: str) -> None:
    """Have no more rows begun, in any process, of the batch that this run leads; those that are under way end."""
    with catalog.transaction() as connection:
        connection.execute("UPDATE batches SET stopped = true WHERE run = %s", (run,))


def claim(catalog: Catalog, batch: str) -> Row | None:
    """Take the next row that is due, or whose lease ran out, for this process; None if there is none now.

    A row that was begun too often, because each time its process died, is failed instead.
    """
    query = """
        WITH next AS (
            SELECT r.number FROM batch_rows r JOIN batches b ON b.id = r.batch_id
            WHERE r.batch_id = %(batch)s AND NOT b.stopped AND (
                (r.status = 'queued' AND r.due_at <= now()) OR (r.status = 'running' AND r.expires_at < now()))
            ORDER BY r.number LIMIT 1 FOR UPDATE OF r SKIP LOCKED
        )
        UPDATE batch_rows r SET status = 'running', attempts = r.attempts + 1, holder = %(holder)s,
            expires_at = now() + %(lease)s::interval
        FROM next WHERE r.batch_id = %(batch)s AND r.number = next.number RETURNING r.*"""
    values = {"batch": batch, "holder": uploads.holder(), "lease": uploads.LEASE}
    while True:
        with catalog.transaction() as connection:
            row = connection.execute(query, values).fetchone()
        if row is None or row["attempts"] <= MAX_ATTEMPTS:
            return row
        reason = f"each of {MAX_ATTEMPTS} attempts ended with the death of its process"
        finish(catalog, batch, Outcome(row["number"], 0.0, code="gave-up", reason=reason))


def finish(catalog: Catalog, batch: str, outcome: Outcome) -> str:
    """Record what became of a row that this process holds; return its status, or "lost" if another holds it now."""
    query = """
        UPDATE batch_rows SET holder = NULL, expires_at = NULL, image_id = %(image)s, code = %(code)s,
            reason = %(reason)s, virtual_size = %(virtual_size)s, new_size = %(new_size)s, seconds = %(seconds)s,
            status = CASE WHEN %(code)s::text IS NULL THEN 'done'
                WHEN %(again)s AND attempts < %(most)s THEN 'queued' ELSE 'failed' END,
            due_at = now() + least(power(2, attempts), %(longest)s) * interval '1 second'
        WHERE batch_id = %(batch)s AND number = %(number)s AND status = 'running' AND holder = %(holder)s
        RETURNING status"""
    values = {name: getattr(outcome, name) for name in Outcome.__slots__}
    with catalog.transaction() as connection:
        row = connection.execute(
            query,
            {**values, "batch": batch, "holder": uploads.holder(), "most": MAX_ATTEMPTS, "longest": _LONGEST_WAIT},
        ).fetchone()
    return row["status"] if row else "lost"


def renew(catalog: Catalog, batch: str) -> None:
    """Push the expiry of all rows that this process holds."""
    with catalog.transaction() as connection:
        connection.execute(
            """UPDATE batch_rows SET expires_at = now() + %s::interval
            WHERE batch_id = %s AND status = 'running' AND holder = %s""",
            (uploads.LEASE, batch, uploads.holder()),
        )


def give_back(catalog: Catalog, batch: str) -> None:
    """Let go of the rows that this process holds, as if it had not begun them."""
    with catalog.transaction() as connection:
        connection.execute(
            """UPDATE batch_rows SET status = 'queued', attempts = attempts - 1, due_at = now(),
            holder = NULL, expires_at = NULL WHERE batch_id = %s AND status = 'running' AND holder = %s""",
            (batch, uploads.holder()),
        )


def expire_dead(catalog: Catalog, batch: str) -> None:
    """End the leases whose process on this host is known to be dead, before their time."""
    with catalog.transaction() as connection:
        query = "SELECT DISTINCT holder FROM batch_rows WHERE batch_id = %s AND status = 'running'"
        holders = [row["holder"] for row in connection.execute(query, (batch,))]
        connection.execute(
            """UPDATE batch_rows SET expires_at = now() - interval '1 second'
            WHERE batch_id = %s AND status = 'running' AND holder = ANY(%s)""",
            (batch, [holder for holder in holders if uploads.is_dead(holder)]),
        )


def counts(catalog: Catalog, batch: str) -> dict[str, int]:
    """How many rows are in each status; those without rows are 0."""
    rows = catalog.rows("SELECT status, count(*) AS n FROM batch_rows WHERE batch_id = %s GROUP BY status", (batch,))
    return {"queued": 0, "running": 0, "done": 0, "failed": 0} | {row["status"]: row["n"] for row in rows}


def rows(catalog: Catalog, batch: str) -> list[Row]:
    """All rows of a batch in order."""
    return catalog.rows("SELECT * FROM batch_rows WHERE batch_id = %s ORDER BY number", (batch,))


def is_stopped(catalog: Catalog, batch: str) -> bool:
    """Whether no more rows shall be begun."""
    return bool(get(catalog, batch)["stopped"])
