"""VHD, fixed and dynamic (Microsoft, Virtual Hard Disk Image Format Specification 1.0)."""

import struct

from darkroom.formats import ExternalReferenceError, FeatureUnknownError, Inspection
from darkroom.formats import fields as f
from darkroom.model import MiB, Reader
from darkroom.settings import Limits

_FOOTER = struct.Struct(">8sIIQI4sI4sQQHBBII16sB")
_DYNAMIC_HEADER = struct.Struct(">8sQQIIII16s")
_FIXED, _DYNAMIC, _DIFFERENCING = 2, 3, 4
_UNALLOCATED = 0xFFFFFFFF


def inspect(reader: Reader, which: str, limits: Limits) -> Inspection:
    """Refuse differencing disks, wrong checksums and a table outside of the file.

    The size of the disk is the footer's current size. The geometry beside it may round it down; then the details
    tell, since some readers go by that.
    """
    last = 511 if reader.size % 512 == 511 else 512
    footer = reader.read(reader.size - last, last).ljust(512, b"\0")
    if not footer.startswith(b"conectix"):
        footer = reader.read(0, 512)
    values = f.unpack(_FOOTER, footer, which, "a VHD footer")
    _, _, version, data_at, _, creator, _, _, _, size, cylinders, heads, sectors, kind, checksum, _, _ = values
    f.require(checksum == _checksum(footer, 64), which, "a footer whose checksum is right", f"{checksum:#x}")
    if kind == _DIFFERENCING:
        raise ExternalReferenceError(which, "a whole disk", "a differencing disk, which needs its parent")
    if kind not in (_FIXED, _DYNAMIC) or version >> 16 != 1:
        raise FeatureUnknownError(which, "a fixed or dynamic disk of version 1", f"type {kind}")
    if kind == _FIXED:
        f.require(
            size + last == reader.size or size + 512 == reader.size,
            which,
            f"a disk of {size} bytes",
            reader.size - last,
        )
    else:
        _check_dynamic(reader, data_at, size, which, limits)
    details: dict[str, str | int | bool] = {"creator": creator.decode("ascii", "replace").strip("\0 ")}  # type: ignore[attr-defined]
    geometry = cylinders * heads * sectors * 512
    if geometry != size:
        details["geometry_size"] = geometry
    return Inspection("vhd", size, "fixed" if kind == _FIXED else "dynamic", details)


def _check_dynamic(reader: Reader, at: int, size: int, which: str, limits: Limits) -> None:
    header = f.read(reader, at, 1024, which, "the dynamic header")
    magic, _, table_at, _, entries, block, checksum, parent = f.unpack(_DYNAMIC_HEADER, header, which, "a header")
    f.require(magic == b"cxsparse", which, "a dynamic header", magic)  # type: ignore[comparison-overlap]
    f.require(checksum == _checksum(header, 36), which, "a dynamic header whose checksum is right", f"{checksum:#x}")
    if any(parent):  # type: ignore[arg-type]
        raise ExternalReferenceError(which, "no parent", "the id of one")
    f.require(512 <= block <= 256 * MiB and block & (block - 1) == 0, which, "a block size", block)
    f.require(entries * block >= size, which, "a table for the whole disk", entries)
    f.require(entries * 4 <= limits.header_size, which, "a table of a sane size", entries)
    table = f.read(reader, table_at, entries * 4, which, "the block allocation table")
    used = [entry for (entry,) in struct.iter_unpack(">I", table) if entry != _UNALLOCATED]
    if used:
        f.require(max(used) * 512 < reader.size, which, f"blocks within {reader.size} bytes", max(used) * 512)
        f.require(len(set(used)) == len(used), which, "each block once", "one twice")


def _checksum(data: bytes, at: int) -> int:
    """One's complement of the sum of all bytes but the checksum's own four."""
    return ~(sum(data) - sum(data[at : at + 4])) & 0xFFFFFFFF
