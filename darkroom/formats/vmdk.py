"""VMDK, monolithicSparse and streamOptimized (VMware, Virtual Disk Format 5.0)."""

import re
import struct

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
_SECTOR = 512
_MAX_DESCRIPTOR = 1 * MiB
_ALLOWED = {"monolithicSparse", "streamOptimized"}
_AT_END = 0xFFFFFFFFFFFFFFFF
_NO_PARENT = "ffffffff"
_EXTENT = re.compile(r'(RW|RDONLY) (\d+) SPARSE "([^"/\\]+)"')
_SETTING = re.compile(r'([\w.]+) ?= ?(?:"([^"]*)"|(\S*))')
_SMALL = 64 * MiB


def inspect(reader: Reader, which: str, limits: Limits) -> Inspection:
    """Refuse every other subformat, extents and parents elsewhere, and tables outside of the file."""
    head = reader.read(0, min(reader.size, _SECTOR))
    if not head.startswith(b"KDMV"):
        raise ExternalReferenceError(which, "one sparse file", "a descriptor of extents in other files")
    header = _header(head, which)
    if header["tables_at"] == _AT_END:
        # A streamed file has its final header in the footer, before the end-of-stream marker.
        footer = _header(f.read(reader, reader.size - 2 * _SECTOR, _SECTOR, which, "the footer"), which)
        same = ("version", "flags", "capacity", "grain", "descriptor_at", "descriptor_size", "entries", "compression")
        f.require(all(header[name] == footer[name] for name in same), which, "a footer as the header", "another")
        header = footer
    f.require(header["capacity"] * _SECTOR < 1 << 62, which, "a disk size", header["capacity"])
    grain = header["grain"]
    f.require(8 <= grain <= 1 << 16 and grain & (grain - 1) == 0, which, "a grain of 8 to 65536 sectors", grain)
    f.require(header["entries"] == 512, which, "grain tables of 512 entries", header["entries"])
    kind = _descriptor(reader, header, which)
    claimed = _check_tables(reader, header, which, limits)
    if min(claimed, header["capacity"] * _SECTOR) > max(_SMALL, reader.size * limits.expansion):
        raise ExpansionBombError(which, f"at most {limits.expansion} times its size", f"{claimed} bytes")
    return Inspection("vmdk", header["capacity"] * _SECTOR, kind, {"grain_size": grain * _SECTOR})


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


def _check_tables(reader: Reader, header: dict[str, int], which: str, limits: Limits) -> int:
    """Check that the grain directory, its tables and their grains lie within the file; the guest bytes claimed."""
    per_table = header["grain"] * 512
    count = -(-header["capacity"] // per_table)
    f.require(count * 4 <= limits.header_size, which, "a grain directory of a sane size", count)
    directory = f.read(reader, header["tables_at"] * _SECTOR, count * 4, which, "the grain directory")
    budget, claimed = limits.header_size, 0
    for (sector,) in struct.iter_unpack("<I", directory):
        if not sector:
            continue
        budget -= 2048
        if budget < 0:
            claimed += per_table * _SECTOR
            continue
        table = f.read(reader, sector * _SECTOR, 2048, which, "a grain table")
        grains = [grain for (grain,) in struct.iter_unpack("<I", table) if grain > 1]
        if grains:
            f.require(max(grains) * _SECTOR < reader.size, which, "grains within the file", max(grains) * _SECTOR)
        claimed += len(grains) * header["grain"] * _SECTOR
    return claimed
