"""The sidecar: an object beside an image's manifests that holds what only the catalog knows of the image.

It is JSON: the image's row, and the rows of every table that belongs to it (tags, disks, wraps, and so on), with the
names of the projects that they mention. It holds no secret that the catalog does not hold: wraps are under their KEK.
"""

import json
from typing import Any, LiteralString
from uuid import UUID

from psycopg import sql

from darkroom import crypto
from darkroom.catalog import Connection
from darkroom.errors import DamagedError
from darkroom.store import Store
from darkroom.systems import Systems

_FEW = 10_000
"""Images that are all compared each time: a comparison takes well below 1 ms."""


class SidecarInvalidError(DamagedError):
    """A sidecar is not one that was written."""

    code = "sidecar-invalid"
    what = "the sidecar of an image cannot be read"
    default_remedy = "restore the object from a copy"


def object_key(image: UUID) -> str:
    """The key of an image's sidecar."""
    return f"images/{image}/image.json"


def write(to: Systems, connection: Connection, image: UUID) -> None:
    """Write the sidecar as `connection` sees the image: the last call in a transaction that changed what it says.

    So no change is acknowledged that a rebuilt catalog would not know, such as the end of a share. Raises what the
    store raises, and then the change is undone with the transaction. For a member's transaction it does nothing: what
    the member answered is written by the next collection.
    """
    row = connection.execute("SELECT sidecar(%s) AS record", (image,)).fetchone()
    if row and row["record"]:
        body = json.dumps({"version": crypto.VERSION, **row["record"]}, indent=1, sort_keys=True).encode()
        to.store.put(object_key(image), [body], len(body))


def read(store: Store, image: UUID) -> dict[str, Any]:
    """The record of an image as it was written; raises SidecarInvalidError, ObjectMissingError."""
    key = object_key(image)
    try:
        record: dict[str, Any] = json.loads(store.get(key))
    except ValueError:
        raise SidecarInvalidError(key, "JSON", "other bytes") from None
    if not isinstance(record, dict) or record.get("version") != crypto.VERSION:
        raise SidecarInvalidError(key, f"version {crypto.VERSION}", "another")
    if record.get("image", {}).get("id") != str(image):
        raise SidecarInvalidError(key, f"image {image}", "another image's")
    return record


def behind(connection: Connection, present: LiteralString) -> list[UUID]:
    """The images whose sidecar is behind what the operator sees of them, or for which the SQL `present` is false.

    Those that a member has answered since are found at once, and any other difference at the latest within a day: of a
    large catalog, an hour compares one image in 24, by its id.
    """
    query = """SELECT i.id FROM images i LEFT JOIN sidecars s ON s.image_id = i.id
        WHERE i.status IN ('active', 'deactivated', 'deleted') AND i.purged_at IS NULL AND (
            NOT {present} OR s.digest IS NULL OR ((
                i.id IN (SELECT m.image_id FROM members m JOIN sidecars w USING (image_id)
                    WHERE m.answered_at >= w.written_at)
                OR (SELECT count(*) FROM images) < {few}
                OR abs(hashtext(i.id::text)) % 24 = extract(hour FROM now())
            ) AND s.digest <> sha256(convert_to(image_record(i.id)::text, 'UTF8'))))"""
    statement = sql.SQL(query).format(present=sql.SQL(present), few=sql.Literal(_FEW))
    return [row["id"] for row in connection.execute(statement)]
