"""Reading header fields with bounds."""

import struct

from darkroom.formats import HeaderInvalidError
from darkroom.model import Reader


def read(reader: Reader, offset: int, length: int, which: str, what: str) -> bytes:
    """Bytes that must lie within the file; raises HeaderInvalidError."""
    if offset < 0 or offset + length > reader.size:
        raise HeaderInvalidError(which, f"{what} within {reader.size} bytes", f"{length} bytes at {offset}")
    return reader.read(offset, length)


def unpack(layout: struct.Struct, data: bytes, which: str, what: str) -> tuple[int, ...]:
    """Unpack a header that must be whole; raises HeaderInvalidError."""
    if len(data) < layout.size:
        raise HeaderInvalidError(which, f"{layout.size} bytes of {what}", f"{len(data)}")
    return layout.unpack_from(data)


def require(holds: bool, which: str, expected: str, found: object) -> None:
    """Raise HeaderInvalidError unless the condition holds."""
    if not holds:
        raise HeaderInvalidError(which, expected, str(found))
