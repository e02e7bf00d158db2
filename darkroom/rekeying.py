"""Re-key: the data key of an image gets a wrap under another key, and loses the one it had.

Nothing in the store is read or written, so it takes the same time for every size: a reader needs the data key alone.
The chunks stay in the scope of the key that they were imported under; that key is not needed to read them again.
"""

from typing import Any

from darkroom import keys, reading, sidecar, systems
from darkroom.catalog import Connection, Row, images, wraps
from darkroom.errors import ConflictError
from darkroom.systems import Systems


class NotEncryptedError(ConflictError):
    """The image has no data key that could be wrapped anew."""

    code = "not-encrypted"
    what = "the image is not encrypted"
    default_remedy = "import it again with --key"


def rekey(to: Systems, reference: str, key: str) -> dict[str, Any]:
    """Wrap the data key of an active image under `key` in place of the key that wraps it now; return both names.

    An image that is under `key` already is left as it is, so a repeated call does no harm. Raises ImageMissingError,
    NotOwnerError, NotReadableError, NotEncryptedError, and KeyMissingError, KeyDisabledError and KeyForbiddenError for
    either key; then nothing has changed.
    """
    image = images.find_own(to.catalog, reference)
    keys.require_usable(to.keys, key)
    with to.catalog.transaction() as connection:
        image = _locked(connection, image)
        old = image["key_name"]
        if old != key:
            _wrap_anew(to, connection, image, key)
            images.update(connection, image["id"], key_name=key)
            images.record_event(connection, "rekey", image["id"], "done", f"from {old} to {key}")
            sidecar.write(to, connection, image["id"])
    return {"image": str(image["id"]), "name": image["name"], "old_key": old, "key": key}


def _locked(connection: Connection, image: Row) -> Row:
    """The image as it is now, for this transaction alone; what cannot be re-keyed is refused."""
    row = images.locked(connection, image["id"])
    reading.require_active(row)
    if row["key_name"] is None:
        raise NotEncryptedError(str(row["id"]), "an image under a key", "a plain one")
    return row


def _wrap_anew(to: Systems, connection: Connection, image: Row, key: str) -> None:
    wraps.hold(connection)
    wrap = wraps.of_image(connection, image["id"])
    if wrap is None:
        raise systems.WrapMissingError(str(image["id"]))
    context = systems.data_key_context(to.settings.project, image["id"])
    wraps.replace(connection, image["id"], key, to.keys.rewrap(wrap["key_name"], wrap["wrapped"], context, key))
