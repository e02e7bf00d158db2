"""The keys of a server's disk, if its image is encrypted: both wrapped by a key-encryption key of the project.

The disk's own wrap of the image's data key reads the image until the disk is whole, whatever becomes of the image; the
disk key encrypts its file on the host, and goes with the disk.
"""

from typing import Any
from uuid import UUID

from darkroom import systems
from darkroom.catalog import Connection, Row, wraps
from darkroom.systems import Systems


def create(to: Systems, connection: Connection, image: Row, disk: UUID) -> dict[str, Any]:
    """The columns of a new disk of this image; raises WrapMissingError and the errors of the key manager."""
    if image["key_name"] is None:
        return {"key_name": None, "data_key": None, "disk_key": None}
    plain = systems.unwrap_data_key(to, connection, image)
    wrap = wraps.of_image(connection, image["id"])
    assert wrap
    name, project = wrap["key_name"], to.settings.project
    _, disk_key = to.keys.generate(name, disk_key_context(project, disk))
    data_key = to.keys.wrap(name, plain, data_key_context(project, disk))
    return {"key_name": name, "data_key": data_key, "disk_key": disk_key}


def data_key(to: Systems, disk: UUID) -> bytes:
    """The image's data key, as the disk keeps it; empty for a plain image."""
    return _unwrap(to, disk, "data_key", data_key_context(to.settings.project, disk))


def disk_key(to: Systems, disk: UUID) -> bytes:
    """The key of the disk's file; empty for a plain image."""
    return _unwrap(to, disk, "disk_key", disk_key_context(to.settings.project, disk))


def data_key_context(project: str, disk: UUID) -> dict[str, str]:
    """The encryption context of a disk's wrap of the image's data key."""
    return {"purpose": "server data key", "project": project, "disk": str(disk)}


def disk_key_context(project: str, disk: UUID) -> dict[str, str]:
    """The encryption context of the key of a disk's file."""
    return {"purpose": "server disk", "project": project, "disk": str(disk)}


def _unwrap(to: Systems, disk: UUID, column: str, context: dict[str, str]) -> bytes:
    with to.catalog.transaction() as connection:
        wraps.hold(connection)  # a rotation of the key waits, or has written what is read now
        row = connection.execute("SELECT * FROM server_disks WHERE id = %s", (disk,)).fetchone()
        if row is None or row[column] is None:
            return b""
        return to.keys.unwrap(row["key_name"], row[column], context)
