"""The keys of a server's disk, if its image is encrypted: both wrapped by a key-encryption key of the project.

The disk's own wrap of the image's data key reads the image until the disk is whole, whatever becomes of the image; the
disk key encrypts its file on the host, and goes with the disk.
"""

from typing import Any
from uuid import UUID

from darkroom import systems
from darkroom.catalog import Connection, Row
from darkroom.systems import Systems


def create(to: Systems, connection: Connection, image: Row, disk: UUID) -> dict[str, Any]:
    """The columns of a new disk of this image; raises WrapMissingError and the errors of the key manager."""
    if image["key_name"] is None:
        return {"key_name": None, "data_key": None, "disk_key": None}
    query = "SELECT key_name FROM wraps WHERE image_id = %s AND project_id = current_project()"
    wrap = connection.execute(query, (image["id"],)).fetchone()
    if wrap is None:
        raise systems.WrapMissingError(str(image["id"]))
    name = wrap["key_name"]
    plain = systems.unwrap_data_key(to, connection, image)
    _, disk_key = to.keys.generate(name, _context(to, "server disk", disk))
    data_key = to.keys.wrap(name, plain, _context(to, "server data key", disk))
    return {"key_name": name, "data_key": data_key, "disk_key": disk_key}


def data_key(to: Systems, disk: Row) -> bytes:
    """The image's data key, as the disk keeps it; empty for a plain image."""
    return _unwrap(to, disk, "data_key", "server data key")


def disk_key(to: Systems, disk: Row) -> bytes:
    """The key of the disk's file; empty for a plain image."""
    return _unwrap(to, disk, "disk_key", "server disk")


def _unwrap(to: Systems, disk: Row, column: str, purpose: str) -> bytes:
    if disk[column] is None:
        return b""
    return to.keys.unwrap(disk["key_name"], disk[column], _context(to, purpose, disk["id"]))


def _context(to: Systems, purpose: str, disk: UUID) -> dict[str, str]:
    return {"purpose": purpose, "project": to.settings.project, "disk": str(disk)}
