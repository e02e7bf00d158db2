"""VMDK, monolithicSparse and streamOptimized (VMware, Virtual Disk Format 5.0)."""

import re
import struct
from array import array

from darkroom.formats import (
    ExpansionBombError,
    ExternalReferenceError,
    FeatureUnknownError,
    Inspection,
)
from darkroom.formats import fields as f
from darkroom.model import MiB, Reader
from darkroom.settings import Limits

_HEADER = struct.Struct("<4sIIQQQQIQQQBccccH")
TABLE_ENTRIES = 512
_SECTOR = 512
_COMPRESSED = 1 << 16
_MAX_DESCRIPTOR = 1 * MiB
_ALLOWED = {"monolithicSparse", "streamOptimized"}
_AT_END = 0xFFFFFFFFFFFFFFFF
_NO_PARENT = "ffffffff"
_EXTENT = re.compile(r'(RW|RDONLY) (\d+) SPARSE "([^"/\\]+)"')
_SETTING = re.compile(r'([\w.]+) ?= ?(?:"([^"]*)"|(\S*))')
_SMALL = 64 * MiB


def inspect(reader: Reader, which: str, limits: Limits) -> Inspection:
    """Refuse every other subformat, extents and parents elsewhere, and tables outside of the file."""
    header = _final_header(reader, which)
    f.require(header["capacity"] * _SECTOR < 1 << 62, which, "a disk size", header["capacity"])
    grain = header["grain"]
    f.require(8 <= grain <= 1 << 16 and grain & (grain - 1) == 0, which, "a grain of 8 to 65536 sectors", grain)
    f.require(header["entries"] == TABLE_ENTRIES, which, "grain tables of 512 entries", header["entries"])
    f.require(_tables(header) * 4 <= limits.header_size, which, "a grain directory of a sane size", _tables(header))
    kind = _descriptor(reader, header, which)
    size = header["capacity"] * _SECTOR
    claimed = _claimed(reader, header, which, limits)
    if min(claimed, size) > max(_SMALL, reader.size * limits.expansion):
        raise ExpansionBombError(which, f"at most {limits.expansion} times its size", f"{claimed} bytes")
    compressed = bool(header["compression"] or header["flags"] & _COMPRESSED)
    return Inspection("vmdk", size, kind, {"grain_size": grain * _SECTOR, "compressed": compressed})


def grain_directory(reader: Reader, which: str) -> tuple[int, ...]:
    """The sectors of the grain tables, 0 where there is none, of a file that was inspected."""
    header = _final_header(reader, which)
    count = _tables(header)
    data = f.read(reader, header["tables_at"] * _SECTOR, count * 4, which, "the grain directory")
    return struct.unpack(f"<{count}I", data)


def grain_table(reader: Reader, sector: int, which: str) -> "array[int]":
    """The offsets in the file of the grains of one table, 0 for zeros; raises HeaderInvalidError."""
    data = f.read(reader, sector * _SECTOR, 4 * TABLE_ENTRIES, which, "a grain table")
    # 1 marks a grain of zeros (flag bit 2), and is no place for one without it either.
    grains = array("Q", (grain * _SECTOR if grain > 1 else 0 for (grain,) in struct.iter_unpack("<I", data)))
    f.require(max(grains) < reader.size, which, f"grains within {reader.size} bytes", max(grains))
    return grains


def _final_header(reader: Reader, which: str) -> dict[str, int]:
    head = reader.read(0, min(reader.size, _SECTOR))
    if not head.startswith(b"KDMV"):
        raise ExternalReferenceError(which, "one sparse file", "a descriptor of extents in other files")
    header = _header(head, which)
    if header["tables_at"] != _AT_END:
        return header
    # A streamed file has its final header in the footer, before the end-of-stream marker.
    footer = _header(f.read(reader, reader.size - 2 * _SECTOR, _SECTOR, which, "the footer"), which)
    same = ("version", "flags", "capacity", "grain", "descriptor_at", "descriptor_size", "entries", "compression")
    f.require(all(header[name] == footer[name] for name in same), which, "a footer as the header", "another")
    return footer


def _tables(header: dict[str, int]) -> int:
    return -(-header["capacity"] // (header["grain"] * TABLE_ENTRIES))


def _header(data: bytes, which: str) -> dict[str, int]:
    values = f.unpack(_HEADER, data, which, "a VMDK header")
    magic, version, flags, capacity, grain, at, size, entries, _, tables_at, _, unclean, *_, compression = values
    f.require(magic == b"KDMV", which, "a VMDK header", magic)  # type: ignore[comparison-overlap]
    if version not in (1, 2, 3) or compression not in (0, 1):
        raise FeatureUnknownError(which, "version 1 to 3, no compression or deflate", f"version {version}")
    return {
        "version": version,
        "flags": flags,
        "capacity": capacity,
        "grain": grain,
        "descriptor_at": at,
        "descriptor_size": size,
        "entries": entries,
        "tables_at": tables_at,
        "unclean": unclean,
        "compression": compression,
    }


def _descriptor(reader: Reader, header: dict[str, int], which: str) -> str:
    """Read the embedded descriptor, in which every line must be known; return the subformat."""
    size = header["descriptor_size"] * _SECTOR
    f.require(0 < size <= _MAX_DESCRIPTOR, which, f"a descriptor of at most {_MAX_DESCRIPTOR} bytes", size)
    data = f.read(reader, header["descriptor_at"] * _SECTOR, size, which, "the descriptor").rstrip(b"\0")
    f.require(b"\0" not in data, which, "a descriptor of text", "zero bytes in it")
    settings: dict[str, str] = {}
    extents = 0
    for line in data.decode("utf-8", "replace").splitlines():
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if _EXTENT.fullmatch(text):
            extents += 1
            continue
        setting = _SETTING.fullmatch(text)
        if setting is None:
            raise ExternalReferenceError(which, "one sparse extent, its own", repr(text[:80]))
        settings[setting[1].lower()] = setting[2] or setting[3] or ""
    kind = settings.get("createtype", "")
    if kind not in _ALLOWED:
        raise ExternalReferenceError(which, " or ".join(sorted(_ALLOWED)), kind or "no createType")
    if "parentfilenamehint" in settings or settings.get("parentcid", _NO_PARENT).lower() != _NO_PARENT:
        raise ExternalReferenceError(which, "a whole disk", "a parent disk")
    f.require(extents == 1, which, "one extent", extents)
    return kind


def _claimed(reader: Reader, header: dict[str, int], which: str, limits: Limits) -> int:
    """The guest bytes that the grain tables claim, each checked as far as the limit of metadata goes."""
    per_table = header["grain"] * TABLE_ENTRIES * _SECTOR
    budget, claimed = limits.header_size, 0
    for sector in filter(None, grain_directory(reader, which)):
        budget -= 4 * TABLE_ENTRIES
        if budget < 0:
            claimed += per_table
        else:
            grains = grain_table(reader, sector, which)
            claimed += (len(grains) - grains.count(0)) * header["grain"] * _SECTOR
    return claimed
