"""Open an image in the store for reading, by its row in the catalog."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from darkroom import lifecycle, manifest, systems
from darkroom.catalog import Catalog, Row, images
from darkroom.download import DiskReader, Locate
from darkroom.errors import ConflictError
from darkroom.systems import Systems

_log = logging.getLogger("darkroom")


class NotReadableError(ConflictError):
    """The image has no disk that can be read: it is not active, or its upload has not come to an end."""

    code = "not-readable"
    what = "the image cannot be read"
    default_remedy = "see its status with `darkroom show IMAGE`"


@contextmanager
def open_disk(to: Systems, image: Row, number: int = 0) -> Iterator[DiskReader]:
    """The guest-visible bytes of a disk of an image, verified as they are read.

    The catalog is asked anew whether the project may read the image: what was unshared since then is missing.
    Each opening of a finished image is in the audit log, under the project that reads it. Raises ImageMissingError,
    NotReadableError, the errors of the key manager, and DamagedError for a manifest that is not the one that
    the catalog names.
    """
    query = """SELECT i.status, d.manifest_digest FROM images i LEFT JOIN disks d ON d.image_id = i.id AND d.number = %s
        WHERE i.id = %s"""
    found = to.catalog.rows(query, (number, image["id"]))
    if not found:
        raise images.ImageMissingError(str(image["id"]))
    disk = found[0]
    if disk["manifest_digest"] is None or disk["status"] in ("killed", "deleted"):
        raise NotReadableError(str(image["id"]), "a stored disk", f"status {disk['status']}")
    table = manifest.read(to.store, image["id"], number, disk["manifest_digest"])
    reader = DiskReader(to.store, table, systems.data_key(to, image), locator(to.catalog, image["id"]))
    if disk["status"] not in lifecycle.UNFINISHED:
        with to.catalog.transaction() as connection:
            images.record_event(connection, "read", image["id"], "done", f"disk {number}")
    try:
        yield reader
    finally:
        reader.close()


def require_active(image: Row) -> None:
    """Raise NotReadableError unless the image is active; whoever uses a deprecated one is told, and what to use."""
    if image["status"] != "active":
        raise NotReadableError(str(image["id"]), "status active", f"status {image['status']}")
    if image.get("deprecated_at"):
        instead = f"; use image {image['replaced_by']} instead" if image["replaced_by"] else ""
        _log.warning("image %s has been deprecated since %s%s", image["name"], image["deprecated_at"].date(), instead)


def locator(catalog: Catalog, image: UUID) -> Locate:
    """Where the catalog has a chunk of an image now, as far as the project that acts may read it."""

    def locate(chunk_id: bytes) -> tuple[UUID, int, int] | None:
        with catalog.transaction() as connection:
            row = connection.execute("SELECT * FROM locate(%s, %s)", (image, chunk_id)).fetchone()
        return (row["pack"], row["position"], row["length"]) if row else None

    return locate
