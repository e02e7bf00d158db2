"""The audit log: what was done, refused and read, by whom and on which image. Projects append to it and see their own.

What is done is recorded by `images.record_event`, in the transaction that does it. What is refused is recorded here, in
a transaction of its own, for the one that was refused is undone.
"""

from contextlib import suppress
from contextvars import ContextVar
from uuid import UUID

from darkroom.catalog import Catalog, Row, images
from darkroom.errors import DamagedError, DarkroomError

operation: ContextVar[str] = ContextVar("operation", default="")
"""What is going on: the verb of the flow, or the command."""


def record_refusal(catalog: Catalog, error: DarkroomError) -> None:
    """Record that what goes on was refused, or failed where the same may go well later or stored data is damaged.

    It does not fail: the error that it tells of is the one to raise, also where the catalog itself is away.
    """
    failed = error.retryable or isinstance(error, DamagedError)
    with suppress(DarkroomError), catalog.transaction() as connection:
        outcome = "failed" if failed else "refused"
        images.record_event(connection, operation.get() or "use", _image(error.which), outcome, str(error))


def listed(catalog: Catalog, image: str = "", limit: int = 1000) -> list[Row]:
    """The newest events that the project sees, newest first, or those of one image, also of one that is gone.

    Each with the name of its project, which only the operator sees several of. Raises ImageMissingError.
    """
    wanted = (_image(image) or images.find(catalog, image)["id"]) if image else None
    query = """SELECT e.id, e.at, p.name AS project, e.actor, e.client, e.operation, e.image_id, e.outcome, e.reason
        FROM events e LEFT JOIN projects p ON p.id = e.project_id
        WHERE %(image)s::uuid IS NULL OR e.image_id = %(image)s ORDER BY e.id DESC LIMIT %(limit)s"""
    with catalog.transaction() as connection:
        return connection.execute(query, {"image": wanted, "limit": limit}).fetchall()


def sum_up(operator: Catalog) -> None:
    """Put together the totals of what has happened, which are a row for each event until then; for the operator.

    What is not committed yet is left to the next time, and nothing waits for anything.
    """
    query = """WITH gone AS (DELETE FROM totals RETURNING *)
        INSERT INTO totals SELECT project_id, counter, labels, sum(n) FROM gone GROUP BY project_id, counter, labels"""
    with operator.transaction() as connection:
        connection.execute(query)


def _image(text: str) -> UUID | None:
    with suppress(ValueError):
        return UUID(text)
    return None
