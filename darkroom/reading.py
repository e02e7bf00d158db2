"""Open an image in the store for reading, by its row in the catalog."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from darkroom import manifest, systems
from darkroom.catalog import Catalog, Row
from darkroom.download import DiskReader, Locate
from darkroom.errors import ConflictError
from darkroom.systems import Systems


class NotReadableError(ConflictError):
    """The image has no disk that can be read: it is not active, or its upload has not come to an end."""

    code = "not-readable"
    what = "the image cannot be read"
    default_remedy = "see its status with `darkroom show IMAGE`"


@contextmanager
def open_disk(to: Systems, image: Row, number: int = 0) -> Iterator[DiskReader]:
    """The guest-visible bytes of a disk of an image, verified as they are read.

    Raises NotReadableError, the errors of the key manager, and DamagedError for a manifest that is not the one
    that the catalog names.
    """
    query = "SELECT manifest_digest FROM disks WHERE image_id = %s AND number = %s"
    with to.catalog.transaction() as connection:
        disk = connection.execute(query, (image["id"], number)).fetchone()
    if disk is None or disk["manifest_digest"] is None:
        raise NotReadableError(str(image["id"]), "a stored disk", f"status {image['status']}")
    table = manifest.read(to.store, image["id"], number, disk["manifest_digest"])
    reader = DiskReader(to.store, table, systems.data_key(to, image), _locator(to.catalog, table.scope.id))
    try:
        yield reader
    finally:
        reader.close()


def require_active(image: Row) -> None:
    """Raise NotReadableError unless the image is active."""
    if image["status"] != "active":
        raise NotReadableError(str(image["id"]), "status active", f"status {image['status']}")


def _locator(catalog: Catalog, scope: UUID) -> Locate:
    query = """SELECT p.uuid, c.position, c.length
        FROM chunks c JOIN packs p ON p.id = c.pack_id JOIN scopes s ON s.id = c.scope_id
        WHERE s.uuid = %s AND c.chunk_id = %s AND p.status = 'stored'"""

    def locate(chunk_id: bytes) -> tuple[UUID, int, int] | None:
        with catalog.transaction() as connection:
            row = connection.execute(query, (scope, chunk_id)).fetchone()
        return (row["uuid"], row["position"], row["length"]) if row else None

    return locate
