"""Sharing: an active image becomes readable for other projects, each of which accepts or rejects it.

    share ──▶ pending ──▶ accepted ◀──▶ rejected      unshare ends it from any of them
                 └───────────────────────▶┘

Each operation is one transaction. Of an encrypted image the owner unwraps the data key with its KEK and seals it to
the member's inbox (`inbox.py`); the member, when it accepts, opens it and wraps it by a key of its own. No data is
rewritten, and after that the owner's KEK is not needed. Wraps end with the share: the database deletes them
(0011_members.sql). Owners lock the image weakly here: an answer under way holds its member row while it makes the
wrap, which refers to the image, and must not wait for who waits for it.
"""

from contextlib import suppress
from typing import Any
from uuid import UUID

from darkroom import crypto, reading, sidecar, systems
from darkroom.catalog import Catalog, Connection, ProjectMissingError, Row, images
from darkroom.errors import ConflictError, DarkroomError, RefusedError
from darkroom.systems import Systems

_MINIMUM_PREFIX = 4


class ShareWithOwnerError(RefusedError):
    """An image was to be shared with its own project."""

    code = "share-with-owner"
    what = "an image is not shared with its own project"


class InboxMissingError(ConflictError):
    """An encrypted image was to be shared with a project that cannot receive a data key yet."""

    code = "inbox-not-found"
    what = "the image is encrypted, and this project has no key yet to receive its data key with"
    default_remedy = "have that project run `darkroom project inbox --key K` once"


def share(to: Systems, reference: str, project: str) -> dict[str, Any]:
    """Share an active image with a project; return the member's status: pending, or accepted if it trusts us.

    A member that accepted stays so; one that has not answered, or rejected, is asked again. Raises ImageMissingError,
    NotOwnerError, NotReadableError, ProjectMissingError, ShareWithOwnerError, InboxMissingError, QuotaError, and the
    errors of the key manager; then nothing has changed.
    """
    image = images.find_own(to.catalog, reference)
    reading.require_active(image)
    data_key = systems.data_key(to, image)
    with to.catalog.transaction() as connection:
        image = images.locked(connection, image["id"], weakly=True)
        reading.require_active(image)
        member = _recipient(connection, project)
        if member["id"] == image["project_id"]:
            raise ShareWithOwnerError(project)
        status = _status(connection, image["id"], member["id"])
        if status != "accepted":
            status = _ask(connection, image, member["id"], _sealed(image, project, member, data_key))
            images.record_event(connection, "share", image["id"], "done", f"with {project}: {status}")
            sidecar.write(to, connection, image["id"])
    return _result(image, project=project, outcome=status)


def unshare(to: Systems, reference: str, project: str) -> dict[str, Any]:
    """End the sharing of an image with a project, from the next time that it opens the image; its wrap goes.

    A project that is no member is left as it is. Raises ImageMissingError, NotOwnerError, ProjectMissingError.
    """
    image = images.find_own(to.catalog, reference)
    with to.catalog.transaction() as connection:
        image = images.locked(connection, image["id"], weakly=True)
        member = _recipient(connection, project)
        gone = connection.execute(
            "DELETE FROM members WHERE image_id = %s AND project_id = %s", (image["id"], member["id"])
        )
        if gone.rowcount:
            images.record_event(connection, "unshare", image["id"], "done", f"with {project}")
            sidecar.write(to, connection, image["id"])
    return _result(image, project=project, outcome="unshared" if gone.rowcount else "not shared")


def accept(to: Systems, reference: str, key: str = "") -> dict[str, Any]:
    """Accept an image that another project shares; of an encrypted one, wrap the data key by `key`.

    `key` is by default the one that the project's inbox is under. What is accepted already stays so, and comes under
    `key` if one is given. Raises ImageMissingError where nothing of that name is shared with the project,
    WrapMissingError where the data key has to be shared again, and the errors of the key manager; then nothing has
    changed.
    """
    found = _incoming(to.catalog, reference)
    image = found["image_id"]
    with to.catalog.transaction() as connection:
        member = _locked(connection, image)
        _answer(connection, image, "accepted")
        if found["encrypted"] and member["sealed"]:
            systems.receive_data_key(to, connection, image, found["owner_id"], key)
        elif found["encrypted"]:
            data_key = systems.unwrap_data_key(to, connection, {"id": image, "project_id": found["owner_id"]})
            if key:
                systems.wrap_data_key(to, connection, image, key, data_key)
        if key or member["status"] != "accepted":
            images.record_event(connection, "accept", image, "done", f"from {found['owner']}")
    return _result({**found, "id": image}, project=found["owner"], outcome="accepted")


def reject(to: Systems, reference: str) -> dict[str, Any]:
    """Reject an image that another project shares, also after it was accepted; the project's wrap goes.

    It can be accepted later: the data key goes back to the inbox, unless its key is not to be had now; then the owner
    has to share the image again. Raises ImageMissingError.
    """
    found = _incoming(to.catalog, reference)
    image = found["image_id"]
    with to.catalog.transaction() as connection:
        member = _locked(connection, image)
        if member["status"] != "rejected":
            sealed = member["sealed"] or (_returned(to, connection, found) if found["encrypted"] else None)
            _answer(connection, image, "rejected", sealed)
            images.record_event(connection, "reject", image, "done", f"from {found['owner']}")
    return _result({**found, "id": image}, project=found["owner"], outcome="rejected")


def incoming(catalog: Catalog) -> list[Row]:
    """What others share with the project, newest first: image, name, owner, status, type, size, whether encrypted."""
    with catalog.transaction() as connection:
        return connection.execute("SELECT * FROM incoming() ORDER BY created_at DESC, image_id").fetchall()


def outgoing(catalog: Catalog) -> list[Row]:
    """With whom the project shares its images, newest first: image, name, member, status, and when."""
    with catalog.transaction() as connection:
        return connection.execute("SELECT * FROM outgoing() ORDER BY created_at DESC, image_id, member").fetchall()


def trust(catalog: Catalog, owner: str, *, trusted: bool) -> None:
    """Accept from now on, or no longer, at once what `owner` shares with the project. Raises ProjectMissingError."""
    with catalog.transaction() as connection:
        found = _recipient(connection, owner)["id"]
        if trusted:
            connection.execute("INSERT INTO trusts (owner_id) VALUES (%s) ON CONFLICT DO NOTHING", (found,))
        else:
            connection.execute("DELETE FROM trusts WHERE owner_id = %s", (found,))
        images.record_event(connection, "trust" if trusted else "distrust", None, "done", owner)


def trusted(catalog: Catalog) -> list[str]:
    """The owners whose shares the project accepts at once."""
    with catalog.transaction() as connection:
        return [row["trusted"] for row in connection.execute("SELECT trusted()")]


def _recipient(connection: Connection, project: str) -> Row:
    row = connection.execute("SELECT * FROM recipient(%s)", (project,)).fetchone()
    if row is None:
        raise ProjectMissingError(project)
    return row


def _status(connection: Connection, image: UUID, member: UUID) -> str:
    query = "SELECT status FROM members WHERE image_id = %s AND project_id = %s"
    row = connection.execute(query, (image, member)).fetchone()
    return row["status"] if row else ""


def _sealed(image: Row, project: str, member: Row, data_key: bytes) -> bytes | None:
    if image["key_name"] is None:
        return None
    if member["public_key"] is None:
        raise InboxMissingError(project)
    return crypto.seal_data_key(member["public_key"], data_key, image["id"], image["project_id"], member["id"])


def _ask(connection: Connection, image: Row, member: UUID, sealed: bytes | None) -> str:
    """A new request in place of one that was not accepted; its status, which the member's trust decides."""
    connection.execute("DELETE FROM members WHERE image_id = %s AND project_id = %s", (image["id"], member))
    row = connection.execute(
        "INSERT INTO members (image_id, project_id, sealed) VALUES (%s, %s, %s) RETURNING status",
        (image["id"], member, sealed),
    ).fetchone()
    assert row
    status: str = row["status"]
    return status


def _incoming(catalog: Catalog, reference: str) -> Row:
    """The share that an id, an unambiguous prefix of one, or a name means. Raises ImageMissingError."""
    rows = incoming(catalog)
    found = [row for row in rows if reference in (str(row["image_id"]), row["name"])]
    if not found and len(reference) >= _MINIMUM_PREFIX:
        found = [row for row in rows if str(row["image_id"]).startswith(reference.lower())]
    if not found:
        raise images.ImageMissingError(reference, remedy="see what is shared with `darkroom shares --incoming`")
    if len(found) > 1:
        raise images.ImageAmbiguousError(reference, "one image", " and ".join(str(row["image_id"]) for row in found))
    return found[0]


def _locked(connection: Connection, image: UUID) -> Row:
    """The project's own row as member of an image, locked; the share may have ended meanwhile."""
    query = "SELECT * FROM members WHERE image_id = %s AND project_id = current_project() FOR UPDATE"
    row = connection.execute(query, (image,)).fetchone()
    if row is None:
        raise images.ImageMissingError(str(image))
    return row


def _answer(connection: Connection, image: UUID, status: str, sealed: bytes | None = None) -> None:
    connection.execute(
        """UPDATE members SET status = %s, answered_at = now(), sealed = coalesce(%s, sealed)
        WHERE image_id = %s AND project_id = current_project()""",
        (status, sealed, image),
    )


def _returned(to: Systems, connection: Connection, found: Row) -> bytes | None:
    """The data key sealed to our own inbox, as its owner had done; None if a key that it takes is not to be had."""
    image, owner = found["image_id"], found["owner_id"]
    own = _recipient(connection, to.settings.project)
    with suppress(DarkroomError):
        data_key = systems.unwrap_data_key(to, connection, {"id": image, "project_id": owner})
        return crypto.seal_data_key(own["public_key"], data_key, image, owner, own["id"])
    return None


def _result(image: Row, **values: str) -> dict[str, Any]:
    return {"image": str(image["id"]), "name": image["name"], **values}
