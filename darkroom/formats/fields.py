"""Reading header fields with bounds."""

import struct
from typing import TYPE_CHECKING, Any

from darkroom.formats import HeaderInvalidError, VirtualSizeError
from darkroom.model import Reader

if TYPE_CHECKING:
    from darkroom.settings import Limits

SECTOR = 512


class File:
    """A file under inspection: what is read of it lies within its size and, in sum, within `limits.header_size`."""

    def __init__(self, reader: Reader, which: str, limits: "Limits") -> None:
        self.size = reader.size
        self.which = which
        self.limits = limits
        self.left = limits.header_size
        self._reader = reader

    def read(self, offset: int, length: int, what: str) -> bytes:
        """Exactly `length` bytes; raises HeaderInvalidError if they are not in the file, or too many."""
        within = offset >= 0 and offset + length <= self.size
        self.require(within, f"{what} within {self.size} bytes", f"{length} bytes at {offset}")
        self.require(length <= self.left, f"at most {self.limits.header_size} bytes of tables", f"more: {what}")
        self.left -= length
        return self._reader.read(offset, length)

    def peek(self, offset: int, length: int) -> bytes:
        """As many of the bytes as the file has."""
        offset = max(0, min(offset, self.size))
        return self.read(offset, min(length, self.size - offset), "a header")

    def unpack(self, layout: struct.Struct, offset: int, what: str) -> tuple[Any, ...]:
        """The fields of a header that must be whole."""
        return layout.unpack(self.read(offset, layout.size, what))

    def require(self, holds: bool, expected: str, found: object) -> None:
        """Raise HeaderInvalidError unless the condition holds."""
        if not holds:
            raise HeaderInvalidError(self.which, expected, str(found))

    def require_disk(self, size: int) -> None:
        """Raise VirtualSizeError unless a disk of so many bytes is accepted."""
        if not 0 < size <= self.limits.virtual_size:
            raise VirtualSizeError(self.which, f"1 to {self.limits.virtual_size} bytes", f"{size}")

    def require_apart(self, places: list[tuple[str, int, int]]) -> None:
        """Raise HeaderInvalidError unless each (name, start, length) lies in the file and none overlap."""
        end, before = 0, "the start"
        for name, start, length in sorted(places, key=lambda place: place[1:]):
            self.require(start + length <= self.size, f"{name} within {self.size} bytes", f"{length} at {start}")
            self.require(start >= end, f"{name} apart from {before}", f"both at {start}")
            end, before = start + length, name
