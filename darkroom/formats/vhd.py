"""VHD, fixed and dynamic (Microsoft, Virtual Hard Disk Image Format Specification 1.0; QEMU, block/vpc.c)."""

import struct

import numpy as np

from darkroom.formats import ExternalReferenceError, FeatureUnknownError, Inspection, tables
from darkroom.formats.fields import SECTOR, File
from darkroom.model import GiB, MiB

_FOOTER = struct.Struct(">8sIIQI4sI4sQQHBBII16sB")
_DYNAMIC_HEADER = struct.Struct(">8sQQIIII16s")
_DYNAMIC_SIZE = 1024
_PARENTS = slice(64, 768)
"""The parent's name and its locators, in the dynamic header."""
_FIXED, _DYNAMIC, _DIFFERENCING = 2, 3, 4
_UNALLOCATED = 0xFFFFFFFF
_MAX_SIZE = 2040 * GiB
_MAGIC = b"conectix"
_SHORT = 511


def inspect(file: File) -> Inspection:
    """Refuse differencing disks, wrong checksums and a table outside of the file.

    The size of the disk is the footer's current size. The geometry beside it may be smaller or absurd; then the
    details tell, since some readers go by that.
    """
    file.require(file.size >= _SHORT, "a footer", f"a file of {file.size} bytes")
    start, end = _footers(file)
    if start and end:
        # The readers disagree on which of the two counts.
        file.require(start == end, "the same footer at the start and at the end", "two that differ")
    footer = start or end
    values = _FOOTER.unpack_from(footer)
    _, _, version, data_at, _, creator, _, _, _, size, cylinders, heads, sectors, kind, checksum, _, _ = values
    file.require(checksum == _checksum(footer, 64), "a footer whose checksum is right", f"{checksum:#x}")
    if kind == _DIFFERENCING:
        raise ExternalReferenceError(file.which, "a whole disk", "a differencing disk, which needs its parent")
    if kind not in (_FIXED, _DYNAMIC) or version >> 16 != 1:
        raise FeatureUnknownError(file.which, "a fixed or dynamic disk of version 1", f"type {kind}")
    file.require_disk(size)
    file.require(size % SECTOR == 0 and size <= _MAX_SIZE, f"whole sectors, at most {_MAX_SIZE} bytes", size)
    file.require(bool(start) == (kind == _DYNAMIC), "a footer at the start of a dynamic disk only", f"type {kind}")
    if kind == _FIXED:
        content = (file.size - _SHORT) // SECTOR * SECTOR
        file.require(size == content, f"a disk of {size} bytes", content)
    else:
        _check_dynamic(file, data_at, size)
    details: dict[str, str | int | bool] = {"creator": creator.decode("ascii", "replace").strip("\0 ")}
    geometry = cylinders * heads * sectors * SECTOR
    if geometry != size:
        details["geometry_size"] = geometry
    return Inspection("vhd", size, "fixed" if kind == _FIXED else "dynamic", details)


def _footers(file: File) -> tuple[bytes, bytes]:
    """The footer's copy at the start, which dynamic disks have, and the footer at the end; empty where there is none.

    Some writers leave out the last byte of the footer.
    """
    last = _SHORT if file.size % SECTOR == _SHORT else SECTOR
    start, end = file.peek(0, SECTOR), file.peek(file.size - last, last)
    found = [footer.ljust(SECTOR, b"\0") if footer.startswith(_MAGIC) else b"" for footer in (start, end)]
    return found[0], found[1]


def _check_dynamic(file: File, at: int, size: int) -> None:
    header = file.read(at, _DYNAMIC_SIZE, "the dynamic header")
    magic, _, table_at, _, entries, block, checksum, parent = _DYNAMIC_HEADER.unpack_from(header)
    file.require(magic == b"cxsparse", "a dynamic header", magic)
    file.require(checksum == _checksum(header, 36), "a dynamic header whose checksum is right", f"{checksum:#x}")
    if any(parent) or any(header[_PARENTS]):
        raise ExternalReferenceError(file.which, "no parent", "the id, name or place of one")
    file.require(SECTOR <= block <= 256 * MiB and block & (block - 1) == 0, "a block size", block)
    file.require(size <= entries * block <= _MAX_SIZE + block, "a table for the whole disk", entries)
    places = [
        ("the footer", 0, SECTOR),
        ("the dynamic header", at, _DYNAMIC_SIZE),
        ("the table", table_at, entries * 4),
    ]
    file.require_apart(places)
    table = tables.load(file, table_at, entries * 4, ">u4", "the block allocation table")
    starts = table[table != _UNALLOCATED] * np.uint64(SECTOR)
    # A bitmap of its sectors, a bit each, lies before each block.
    length = -(-block // SECTOR // 8 // SECTOR) * SECTOR + block
    tables.require_within(file, starts + np.uint64(length), "blocks")
    tables.require_apart(file, starts, length, "blocks", [place[1:] for place in places])


def _checksum(data: bytes, at: int) -> int:
    """One's complement of the sum of all bytes but the checksum's own four."""
    return ~(sum(data) - sum(data[at : at + 4])) & 0xFFFFFFFF
