"""The values that the rest of Darkroom speaks in; read this file first.

source file ──Reader──▶ qemu, confined ──Reader──▶ upload ──▶ chunks ──▶ packs ┐
(path, s3, http, nbd)   (raw view of the disk)                manifest ────────┼─▶ object store
                                                              rows ────────────┘   and catalog
object store ──▶ ImageReader (a Reader) ──▶ NBD server ──▶ qemu-img convert ──▶ exported file
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

KiB = 1024
MiB = 1024 * KiB
GiB = 1024 * MiB
TiB = 1024 * GiB

CHUNK_SIZE = 512 * KiB

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Extent:
    """A run of bytes of one kind: `start` and `length` in bytes, `zero` if all of it reads as zeros."""

    start: int
    length: int
    zero: bool

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.start + self.length


def extents(start: int, pieces: Iterable[tuple[int, bool]]) -> list[Extent]:
    """The extents of pieces, length and `zero` of each, which follow each other from `start`; like ones are one."""
    result: list[Extent] = []
    at = start
    for length, zero in pieces:
        if result and result[-1].zero == zero:
            result[-1] = Extent(result[-1].start, result[-1].length + length, zero)
        elif length:
            result.append(Extent(at, length, zero))
        at += length
    return result


class Reader(Protocol):
    """Random read access to `size` bytes; safe to call from many threads at once.

    The same interface serves the bytes of a source file, the guest-visible bytes of a disk, and an image in
    the store.
    """

    size: int

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes at `offset`; the range must lie within the size."""

    def extents(self, offset: int, length: int) -> list[Extent]:
        """Return extents in order that cover exactly `offset` to `offset + length`.

        A reader that does not know answers with one data extent.
        """

    def close(self) -> None:
        """Release what the reader holds; it cannot be used afterwards."""
