"""Change what people decide about an image: locked, changed, logged and put beside its data, in one transaction."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from darkroom import audit, batch, sidecar
from darkroom.catalog import Connection, Row, images
from darkroom.errors import DarkroomError
from darkroom.systems import Systems


@dataclass(frozen=True, slots=True)
class Change:
    """The columns of an image that get other values, none if it is as it should be; and what the log says of it."""

    columns: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""


Decide = Callable[[Connection, Row], Change]


def each(to: Systems, references: Sequence[str], operation: str, decide: Decide) -> list[batch.Result]:
    """Change each image as `decide` says of its locked row; a result for each, of outcome `changed` or `unchanged`.

    An image that is refused is as it was before. What `decide` writes itself is part of the change.
    """

    def one(reference: str) -> batch.Result:
        try:
            return change(to, reference, operation, decide)
        except DarkroomError as error:
            audit.record_refusal(to.catalog, error)
            raise

    return batch.each(references, one)


def change(to: Systems, reference: str, operation: str, decide: Decide) -> batch.Result:
    """Change one image; raises ImageMissingError, NotOwnerError, NameTakenError, and what `decide` raises."""
    found = images.find(to.catalog, reference)
    with to.catalog.transaction() as connection:
        row = images.locked(connection, found["id"])
        wanted = decide(connection, row)
        if wanted.columns:
            try:
                images.update(connection, row["id"], **wanted.columns)
            except psycopg.errors.UniqueViolation:
                raise images.NameTakenError(wanted.columns["name"]) from None
            images.record_event(connection, operation, row["id"], "done", wanted.reason)
            sidecar.write(to, connection, row["id"])
            row = images.locked(connection, row["id"])
    outcome = "changed" if wanted.columns else "unchanged"
    return {"image": str(row["id"]), "name": row["name"], "outcome": outcome, "version": row["version"]}


def require_status(row: Row, *allowed: str) -> None:
    """Raise StatusError unless the image has one of these statuses."""
    if row["status"] not in allowed:
        raise images.StatusError(str(row["id"]), f"status {' or '.join(allowed)}", f"status {row['status']}")
