"""Image rows: create, find, list, and move from one status to the next."""

from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from darkroom import lifecycle
from darkroom.catalog import Catalog, Connection, Row, note
from darkroom.errors import ConflictError, MissingError, RefusedError

_MINIMUM_PREFIX = 4
_DIGITS = 32


class ImageMissingError(MissingError):
    """No such image, or one that the project may not know of: the two cannot be told apart."""

    code = "image-not-found"
    what = "there is no such image"
    default_remedy = "list the images with `darkroom list`"


class NotOwnerError(RefusedError):
    """The image is shared with the project, which may read it and not change it."""

    code = "not-owner"
    what = "the image belongs to another project, which shares it; only its owner can do this"
    default_remedy = "replicate it: the copy is yours"


class ImageAmbiguousError(ConflictError):
    """A prefix that fits several images."""

    code = "image-ambiguous"
    what = "several images have an id with this prefix"
    default_remedy = "give more of the id"


class NameTakenError(ConflictError):
    """Another image of the project has the name."""

    code = "name-taken"
    what = "another image of the project has this name"
    default_remedy = "choose another name, or delete that image first"


class StatusError(ConflictError):
    """The status of the image does not allow the operation."""

    code = "status"
    what = "the status of the image does not allow this"


def create(connection: Connection, columns: dict[str, Any], tags: dict[str, str]) -> UUID:
    """Insert an image in status `queued` with its tags; raises NameTakenError."""
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    values = [Jsonb(value) if isinstance(value, dict) else value for value in columns.values()]
    places = sql.SQL(", ").join(sql.Placeholder() * len(columns))
    statement = sql.SQL("INSERT INTO images ({}) VALUES ({}) RETURNING id").format(names, places)
    try:
        row = connection.execute(statement, values).fetchone()
    except psycopg.errors.UniqueViolation:
        raise NameTakenError(columns["name"]) from None
    assert row
    image: UUID = row["id"]
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO tags VALUES (%s, %s, %s)", [(image, k, v) for k, v in tags.items()])
    return image


# The operator may do what owners may.
_SEEN = sql.SQL("SELECT i.*, coalesce(i.project_id = (SELECT current_project()), true) AS own FROM images i ")
# A range of the primary key: unlike the text of an id, it may be looked up before a policy is asked.
_BY_PREFIX = _SEEN + sql.SQL("WHERE i.id BETWEEN %s AND %s ORDER BY i.id LIMIT 2")


def get(catalog: Catalog, image: str | UUID) -> Row:
    """The image with this id, whatever its status, the project's own or shared; raises ImageMissingError."""
    rows = catalog.rows(_SEEN + sql.SQL("WHERE i.id = %s"), (str(image),))
    if not rows:
        raise ImageMissingError(str(image))
    return rows[0]


def find(catalog: Catalog, reference: str) -> Row:
    """The image that `reference` names: an id, else a name, else a family, else an unambiguous prefix of an id.

    So nobody can take over an id by a name, nor a name by a family. A family means its newest active image that is not
    deprecated. Names and families are looked for among the project's own images first, then among those that others
    share with it; the image's `own` says whose it is. Killed and deleted images are found by id or prefix only. Raises
    ImageMissingError, ImageAmbiguousError.
    """
    with catalog.transaction() as connection:
        rows = _by_id(connection, reference) or _by_name(connection, reference) or _by_family(connection, reference)
        if not rows and (bounds := _ids_with(reference)):
            rows = connection.execute(_BY_PREFIX, bounds).fetchall()
    if not rows:
        raise ImageMissingError(reference)
    if len(rows) > 1 and not (rows[0]["own"] and reference in (rows[0]["name"], rows[0]["family"])):
        raise ImageAmbiguousError(reference, "one image", " and ".join(str(row["id"]) for row in rows))
    return rows[0]


def find_own(catalog: Catalog, reference: str) -> Row:
    """As `find`, for whatever changes the image: raises NotOwnerError for one that another project shares."""
    row = find(catalog, reference)
    require_own(row)
    return row


def require_own(row: Row) -> None:
    """Raise NotOwnerError unless the image belongs to the project."""
    if not row["own"]:
        raise NotOwnerError(str(row["id"]))


def locked(connection: Connection, image: UUID, *, weakly: bool = False) -> Row:
    """An own image as it is now, locked until the transaction ends; raises ImageMissingError, NotOwnerError.

    `weakly`: rows that refer to the image, such as a member's wrap or a hold, can be made meanwhile.
    """
    lock = sql.SQL("FOR NO KEY UPDATE" if weakly else "FOR UPDATE")
    row = connection.execute(_SEEN + sql.SQL("WHERE i.id = %s ") + lock, (image,)).fetchone()
    if row is None:
        # A policy hides from such a lock what the project may only read.
        row = connection.execute(_SEEN + sql.SQL("WHERE i.id = %s"), (image,)).fetchone()
    if row is None:
        raise ImageMissingError(str(image))
    require_own(row)
    return row


def find_deleted(catalog: Catalog, reference: str) -> Row:
    """The deleted image that `reference` names, by its name too; else the one that `find` finds.

    Raises ImageMissingError, ImageAmbiguousError.
    """
    query = _SEEN + sql.SQL("WHERE i.name = %s AND i.status = 'deleted' ORDER BY i.deleted_at DESC LIMIT 2")
    with catalog.transaction() as connection:
        rows = connection.execute(query, (reference,)).fetchall()
    if len(rows) > 1:
        ids = " and ".join(str(row["id"]) for row in rows)
        raise ImageAmbiguousError(reference, "one deleted image of this name", ids, "give its id")
    return rows[0] if rows else find(catalog, reference)


def unfinished(connection: Connection, name: str) -> Row | None:
    """The own image of this name, of any status in which it holds the name; locked until the transaction ends."""
    found = next((row["id"] for row in _by_name(connection, name) if row["own"]), None)
    # The lease before the row, in the order in which an upload locks them; then as the row is behind the lock.
    connection.execute("SELECT FROM leases WHERE image_id = %s FOR UPDATE", (found,))
    query = _SEEN + sql.SQL("WHERE i.id = %s AND i.status NOT IN ('killed', 'deleted') FOR UPDATE OF i")
    return connection.execute(query, (found,)).fetchone()


def _by_name(connection: Connection, name: str) -> list[Row]:
    """The images of a name, the project's own first."""
    condition = "WHERE i.name = %s AND i.status NOT IN ('killed', 'deleted') ORDER BY own DESC, i.id LIMIT 3"
    return connection.execute(_SEEN + sql.SQL(condition), (name,)).fetchall()


def _by_id(connection: Connection, reference: str) -> list[Row]:
    try:
        image = UUID(reference)
    except ValueError:
        return []
    return connection.execute(_SEEN + sql.SQL("WHERE i.id = %s"), (image,)).fetchall()


def _ids_with(prefix: str) -> tuple[UUID, UUID] | None:
    """The first and the last id that begin so, with its dashes or without any; None if none can, or too many."""
    digits = prefix.lower().replace("-", "")
    if not _MINIMUM_PREFIX <= len(digits) <= _DIGITS or set(digits) - set("0123456789abcdef"):
        return None
    first, last = UUID(digits.ljust(_DIGITS, "0")), UUID(digits.ljust(_DIGITS, "f"))
    if "-" in prefix and not str(first).startswith(prefix.lower()):
        return None
    return first, last


def _by_family(connection: Connection, family: str) -> list[Row]:
    """The newest usable image of a family of each project, the project's own first."""
    newest = sql.SQL("SELECT DISTINCT ON (own, project_id) * FROM (") + _SEEN
    condition = """WHERE i.family = %s AND i.status = 'active' AND i.deprecated_at IS NULL) f
        ORDER BY own DESC, project_id, active_at DESC, id DESC LIMIT 2"""
    return connection.execute(newest + sql.SQL(condition), (family,)).fetchall()


def detail(catalog: Catalog, image: UUID) -> Row:
    """What belongs to an image beside its row: tags, disks, number of packs, lease; its owner if that shares it."""
    with catalog.transaction() as connection:

        def rows(query: str) -> list[Row]:
            return connection.execute(query.encode(), (image,)).fetchall()

        return {
            "tags": {row["key"]: row["value"] for row in rows("SELECT * FROM tags WHERE image_id = %s")},
            "owner": next((row["owner"] for row in rows("SELECT owner FROM incoming() WHERE image_id = %s")), None),
            "disks": rows("SELECT * FROM disks WHERE image_id = %s ORDER BY number"),
            "packs": rows("SELECT count(*) AS n FROM refs WHERE image_id = %s")[0]["n"],
            "proof": next(iter(rows("SELECT how, reason, seconds FROM proofs WHERE image_id = %s")), None),
            "lease": next(iter(rows("SELECT holder, expires_at FROM leases WHERE image_id = %s")), None),
        }


def disks(catalog: Catalog, image: UUID) -> list[Row]:
    """The disks of an image in order."""
    return catalog.rows("SELECT * FROM disks WHERE image_id = %s ORDER BY number", (image,))


def update(connection: Connection, image: UUID, **columns: Any) -> None:
    """Set columns of an image; dicts become JSON."""
    _set(connection, image, columns, sql.SQL("true"))


def move(connection: Connection, image: UUID, status: str, **columns: Any) -> None:
    """Move an image to `status` and set columns with it; raises StatusError where `lifecycle` forbids it."""
    allowed = sql.SQL("status = ANY({})").format(sql.Literal(lifecycle.before(status)))
    if not _set(connection, image, {"status": status, **columns}, allowed):
        row = connection.execute("SELECT status FROM images WHERE id = %s", (image,)).fetchone()
        expected = " or ".join(lifecycle.before(status))
        raise StatusError(str(image), f"status {expected}", f"status {row['status']}" if row else "no image")


def _set(connection: Connection, image: UUID, columns: dict[str, Any], condition: sql.Composable) -> bool:
    pairs = sql.SQL(", ").join(sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder()) for name in columns)
    values = [Jsonb(value) if isinstance(value, dict) else value for value in columns.values()]
    statement = sql.SQL("UPDATE images SET {}, updated_at = now() WHERE id = %s AND ({})").format(pairs, condition)
    return connection.execute(statement, (*values, image)).rowcount == 1


def record_event(connection: Connection, operation: str, image: UUID | None, outcome: str, reason: str = "") -> None:
    """Append to the audit log, in the transaction of what it tells."""
    connection.execute(
        "INSERT INTO events (operation, image_id, outcome, reason) VALUES (%s, %s, %s, %s)",
        (operation, image, outcome, reason[:1000]),
    )
    note(connection, {"operation": operation, "image_id": image, "outcome": outcome, "reason": reason[:1000]})
