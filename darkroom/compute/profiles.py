"""Read profiles: which chunks of a disk a boot reads, in order, so that the next boot has them before it asks."""

import threading
from collections.abc import Sequence
from uuid import UUID

from darkroom.catalog import Connection
from darkroom.model import CHUNK_SIZE, Extent, Reader

_MOST = 1 << 16
"""Chunks in a profile at most: 32 GiB of disk."""


class Recorder:
    """A Reader that passes everything on to another, and notes which chunks are read, in order of the first read."""

    def __init__(self, reader: Reader) -> None:
        self.size = reader.size
        self._reader = reader
        self._lock = threading.Lock()
        self._seen: dict[int, None] = {}

    @property
    def chunks(self) -> list[int]:
        """The numbers of the chunks read so far."""
        with self._lock:
            return list(self._seen)

    def read(self, offset: int, length: int) -> bytes:
        """As the other reader does."""
        with self._lock:
            for number in range(offset // CHUNK_SIZE, -(-(offset + length) // CHUNK_SIZE)):
                if len(self._seen) < _MOST:
                    self._seen.setdefault(number)
        return self._reader.read(offset, length)

    def extents(self, offset: int, length: int) -> list[Extent]:
        """As the other reader does."""
        return self._reader.extents(offset, length)

    def close(self) -> None:
        """Close the other reader."""
        self._reader.close()


def record(connection: Connection, image: UUID, disk: int, numbers: Sequence[int]) -> None:
    """Keep what a boot read of a disk of the project's image, in place of an earlier profile."""
    connection.execute(
        "UPDATE disks SET profile = %s WHERE image_id = %s AND number = %s", (list(numbers)[:_MOST], image, disk)
    )


def load(connection: Connection, image: UUID, disk: int) -> list[int]:
    """The profile of a disk; empty where none was recorded, or the image is gone."""
    row = connection.execute("SELECT profile FROM disks WHERE image_id = %s AND number = %s", (image, disk)).fetchone()
    return list(row["profile"] or []) if row else []
