"""Delete, restore, purge and cancel: the end of an image, in the reverse of the order in which it was written.

Deleted: invisible and unusable at once, nothing of it is gone. Purged, when its window ends or by hand: first the wraps
of its data key, with the references on its packs, then its objects, then its row. Packs are the collector's.
"""

from typing import Any
from uuid import UUID

import psycopg

from darkroom import creation, lifecycle, rules, sidecar
from darkroom.catalog import Connection, Row, images
from darkroom.errors import ConflictError, MissingError
from darkroom.systems import Systems


class ProtectedError(ConflictError):
    """The image is protected against deletion."""

    code = "protected"
    what = "the image is protected"
    default_remedy = "take the protection off with `darkroom modify IMAGE --protect off`"


class UnfinishedError(ConflictError):
    """The image is being created."""

    code = "unfinished"
    what = "the image is being created"
    default_remedy = "end that with `darkroom cancel IMAGE`, which removes what there is of it"


class PurgedError(MissingError):
    """The image was deleted and purged; its data key is gone."""

    code = "purged"
    what = "the image was purged and cannot be restored"


def delete(to: Systems, reference: str) -> dict[str, Any]:
    """Delete an active or deactivated image; its name is free again, and it can be restored until `purge_after`.

    Deleting it twice is deleting it once. Raises ImageMissingError, UnfinishedError, ProtectedError, StatusError.
    """
    image = images.find_own(to.catalog, reference)["id"]
    with to.catalog.transaction() as connection:
        row = images.locked(connection, image)
        if row["status"] in lifecycle.UNFINISHED:
            raise UnfinishedError(str(image), "", f"status {row['status']}")
        if row["status"] != "deleted":
            if row.get("protected"):
                raise ProtectedError(str(image))
            query = "SELECT now() AS deleted_at, now() + restore_window AS purge_after FROM projects WHERE id = %s"
            times = connection.execute(query, (row["project_id"],)).fetchone()
            images.move(connection, image, "deleted", deleted_from=row["status"], **(times or {}))
            images.record_event(connection, "delete", image, "done")
            sidecar.write(to, connection, image)
            row = images.locked(connection, image)
    return {**_named(row), "outcome": "deleted", "purge_after": row["purge_after"].isoformat()}


def restore(to: Systems, reference: str, name: str = "") -> dict[str, Any]:
    """Bring a deleted image back as it was, under another name if one is given. An image that is not deleted stays.

    Raises ImageMissingError, ImageAmbiguousError, PurgedError, StatusError, NameTakenError.
    """
    if name:
        rules.check_name(name)
    image = images.find_deleted(to.catalog, reference)["id"]
    with to.catalog.transaction() as connection:
        row = images.locked(connection, image)
        if row["purged_at"]:
            raise PurgedError(str(image))
        if row["status"] == "deleted":
            wanted = name or row["name"]
            cleared = {"deleted_at": None, "deleted_from": None, "purge_after": None}
            try:
                images.move(connection, image, row["deleted_from"], name=wanted, **cleared)
            except psycopg.errors.UniqueViolation:
                remedy = "give the restored image another name with --name"
                raise images.NameTakenError(wanted, "", "", remedy) from None
            images.record_event(connection, "restore", image, "done", f"as {wanted}" if name else "")
            sidecar.write(to, connection, image)
        elif row["status"] not in ("active", "deactivated"):
            raise images.StatusError(str(image), "status deleted", f"status {row['status']}")
    return {**_named(images.get(to.catalog, image)), "outcome": "restored"}


def purge(to: Systems, reference: str) -> dict[str, Any]:
    """End the window of a deleted image, or remove a killed one for good; killed anywhere, another call ends it.

    The outcome is `purged`, or `held` while a server still reads from the image: its data then stay, and the scheduled
    purge takes it later. Raises ImageMissingError, ImageAmbiguousError, StatusError.
    """
    return _purge(to, images.find_deleted(to.catalog, reference))


def _purge(to: Systems, row: Row) -> dict[str, Any]:
    with to.catalog.transaction() as connection:
        held = _let_go(to, connection, row["id"])
    if held:
        return {**_named(row), "outcome": "held"}
    creation.remove_rest(to, row)
    with to.catalog.transaction() as connection:
        if connection.execute("SELECT FROM images WHERE id = %s FOR UPDATE", (row["id"],)).rowcount:
            images.record_event(connection, "purge", row["id"], "done")
            connection.execute("SELECT remove_image(%s)", (row["id"],))
    return {**_named(row), "outcome": "purged"}


def purge_due(to: Systems) -> dict[str, Any]:
    """Purge all images whose window has ended, of the project or, for the operator, of all; `held` ones stay."""
    query = """SELECT * FROM images
        WHERE status = 'deleted' AND (purge_after < now() OR purged_at IS NOT NULL) ORDER BY purge_after"""
    with to.catalog.transaction() as connection:
        due = connection.execute(query).fetchall()
    results = []
    for row in due:
        try:
            results.append(_purge(to, row))
        except (images.ImageMissingError, images.StatusError):
            continue  # another purge was faster, or somebody has just restored it
    return {"images": results}


def cancel(to: Systems, reference: str) -> dict[str, Any]:
    """End the creation of an image, whichever process works on it, and remove what there is of it.

    That process loses its lease with this, so that no later write of it counts. Raises ImageMissingError, StatusError.
    """
    image = images.find_own(to.catalog, reference)["id"]
    with to.catalog.transaction() as connection:
        # The lease before the row, in the order in which an upload locks them.
        connection.execute("SELECT FROM leases WHERE image_id = %s FOR UPDATE", (image,))
        row = images.locked(connection, image)
        if (row["failure"] or {}).get("code") != "cancelled":
            creation.kill(connection, row, {"code": "cancelled", "message": "cancelled by a user"})
            images.record_event(connection, "cancel", image, "done")
    creation.remove_rest(to, row)
    return {**_named(row), "outcome": "cancelled"}


def _let_go(to: Systems, connection: Connection, image: UUID) -> bool:
    """The step of a purge behind which there is no way back: no wrap, no sidecar, no reference. Whether it is held."""
    row = images.locked(connection, image)
    if row["status"] not in ("deleted", "killed"):
        raise images.StatusError(str(image), "status deleted", f"status {row['status']}", "delete it first")
    # Behind the lock of the row, which a new hold waits for.
    held = connection.execute("SELECT is_held(%s) AS held", (image,)).fetchone()
    if held and held["held"]:
        return True
    if not row["purged_at"]:
        connection.execute("SELECT destroy_wraps(%s)", (image,))
        connection.execute("DELETE FROM refs WHERE image_id = %s", (image,))
        connection.execute("UPDATE images SET purged_at = now() WHERE id = %s", (image,))
        images.record_event(connection, "purge", image, "started")
        to.store.delete(sidecar.object_key(image))  # it has the wraps too
    return False


def _named(row: Row) -> dict[str, Any]:
    return {"image": str(row["id"]), "name": row["name"]}
