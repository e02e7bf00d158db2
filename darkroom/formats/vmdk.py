"""VMDK, monolithicSparse and streamOptimized (VMware, Virtual Disk Format 5.0; QEMU, block/vmdk.c)."""

import re
import struct
from array import array
from dataclasses import dataclass

import numpy as np

from darkroom.formats import (
    ExternalReferenceError,
    FeatureUnknownError,
    Inspection,
    UncleanError,
    tables,
)
from darkroom.formats.fields import SECTOR, File
from darkroom.model import MiB, Reader
from darkroom.settings import Limits

TABLE_ENTRIES = 512

_HEADER = struct.Struct("<4sIIQQQQIQQQB4sH")
_LINE_ENDS = b"\n \r\n"
_MAX_DESCRIPTOR = 1 * MiB
_DESCRIPTOR_AT = 512
_HINT_AREA = 20 * SECTOR
"""QEMU looks for the parent's name in these bytes behind the header, whatever the header says of the descriptor."""
_ALLOWED = {"monolithicsparse": "monolithicSparse", "streamoptimized": "streamOptimized"}
_AT_END = 0xFFFFFFFFFFFFFFFF
_NO_PARENT = "ffffffff"
_SECOND_DIRECTORY = 2
_COMPRESSED = 1 << 16
_TABLE = TABLE_ENTRIES * 4
_ZERO = 1
"""Marks a grain of zeros (flag bit 2), and is no place for one without it either."""
_EXTENT = re.compile(r'(RW|RDONLY) (\d+) SPARSE "([^"/\\]+)"')
_SETTING = re.compile(r'([\w.]+) ?= ?(?:"([^"]*)"|(\S*))')
_MARKER = struct.Struct("<QII496s")
_END_OF_STREAM, _FOOTER = 0, 3


@dataclass(frozen=True, slots=True)
class _Header:
    version: int
    flags: int
    capacity: int
    grain: int
    descriptor_at: int
    descriptor_size: int
    entries: int
    compression: int


def inspect(file: File) -> Inspection:
    """Refuse every other subformat, extents and parents elsewhere, and tables outside of the file."""
    header, second_at, first_at = _final_header(file)
    kind = _descriptor(file, header)
    size, grain = header.capacity * SECTOR, header.grain
    file.require_disk(size)
    file.require(8 <= grain <= 1 << 16 and grain & (grain - 1) == 0, "a grain of 8 to 65536 sectors", grain)
    file.require(header.entries == TABLE_ENTRIES, f"grain tables of {TABLE_ENTRIES} entries", header.entries)
    compressed = bool(header.compression)
    file.require(compressed == bool(header.flags & _COMPRESSED), "a flag for compressed grains", header.flags)
    if header.flags & _SECOND_DIRECTORY:
        # A copy, which some readers turn to when the first one is damaged.
        _check_directory(file, header, second_at)
    claimed = _check_grains(file, header, _check_directory(file, header, first_at))
    tables.require_ratio(file, claimed, size)
    return Inspection("vmdk", size, kind, {"grain_size": grain * SECTOR, "compressed": compressed})


def grain_directory(reader: Reader, which: str) -> tuple[int, ...]:
    """The sectors of the grain tables, 0 where there is none, of a file that was inspected."""
    file = File(reader, which, Limits())
    header, _, at = _final_header(file)
    count = _tables(header)
    return struct.unpack(f"<{count}I", file.read(at * SECTOR, count * 4, "the grain directory"))


def grain_table(reader: Reader, sector: int, which: str) -> "array[int]":
    """The offsets in the file of the grains of one table, 0 for zeros; raises HeaderInvalidError."""
    file = File(reader, which, Limits())
    data = file.read(sector * SECTOR, _TABLE, "a grain table")
    grains = array("Q", (grain * SECTOR if grain > _ZERO else 0 for (grain,) in struct.iter_unpack("<I", data)))
    file.require(max(grains) < file.size, f"grains within {file.size} bytes", max(grains))
    return grains


def _final_header(file: File) -> tuple[_Header, int, int]:
    """The header that counts, and where its second and first grain directory lie, in sectors."""
    header, second_at, first_at = _read_header(file, 0)
    if first_at == _AT_END:
        second_at, first_at = _read_footer(file, header)
    return header, second_at, first_at


def _tables(header: _Header) -> int:
    return -(-header.capacity // (header.grain * TABLE_ENTRIES))


def _read_header(file: File, at: int) -> tuple[_Header, int, int]:
    """A header, and where its second and first grain directory lie, in sectors."""
    values = file.unpack(_HEADER, at, "a VMDK header")
    magic, version, flags, capacity, grain, text_at, text_size, entries, second_at, first_at, *rest = values
    overhead, unclean, line_ends, compression = rest
    file.require(magic == b"KDMV" and line_ends == _LINE_ENDS, "a VMDK header", f"{magic!r} {line_ends!r}")
    if version not in (1, 2, 3) or compression not in (0, 1):
        raise FeatureUnknownError(file.which, "version 1 to 3, no compression or deflate", f"version {version}")
    file.require(overhead * SECTOR <= file.size, f"metadata within {file.size} bytes", overhead * SECTOR)
    if unclean:
        remedy = "shut the machine down that uses it, and copy it again"
        raise UncleanError(file.which, "a file that was closed", "one in use", remedy)
    header = _Header(version, flags, capacity, grain, text_at, text_size, entries, compression)
    return header, second_at, first_at


def _read_footer(file: File, header: _Header) -> tuple[int, int]:
    """A streamed file has its final header in a footer: marker, header, end of stream, a sector each."""
    at = file.size - 3 * SECTOR
    for place, kind in ((at, _FOOTER), (at + 2 * SECTOR, _END_OF_STREAM)):
        _, size, found, zero = file.unpack(_MARKER, place, "the footer")
        file.require(size == 0 and found == kind and not any(zero), "a footer", "another end")
    footer, second_at, first_at = _read_header(file, at + SECTOR)
    file.require(footer == header, "a footer as the header", "another")
    file.require(first_at != _AT_END, "one footer", "another in it")
    return second_at, first_at


def _descriptor(file: File, header: _Header) -> str:
    """Read the embedded descriptor, in which every line must be known; return the subformat."""
    size = header.descriptor_size * SECTOR
    file.require(0 < size <= _MAX_DESCRIPTOR, f"a descriptor of at most {_MAX_DESCRIPTOR} bytes", size)
    # Readers disagree on where it lies, unless it lies here.
    file.require(header.descriptor_at * SECTOR == _DESCRIPTOR_AT, "the descriptor in sector 1", header.descriptor_at)
    if b"parentfilenamehint" in file.peek(_DESCRIPTOR_AT, _HINT_AREA).lower():
        raise ExternalReferenceError(file.which, "a whole disk", "the name of a parent disk")
    text, _, rest = file.read(_DESCRIPTOR_AT, size, "the descriptor").partition(b"\0")
    rest = rest.strip(b"\0")
    # QEMU writes a CID without leading zeros over a longer one, and leaves the old end of the text behind the new.
    file.require(len(rest) < 8 and text.endswith(rest), "a descriptor of text", "zero bytes in it")
    lines = [line.strip() for line in text.decode("utf-8", "replace").splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    extents = [line for line in lines if _EXTENT.fullmatch(line)]
    settings: dict[str, str] = {}
    for line in lines:
        setting = _SETTING.fullmatch(line)
        if setting:
            name = setting[1].lower()
            file.require(name not in settings, "each setting once", name)
            settings[name] = (setting[2] or setting[3] or "").lower()
        elif line not in extents:
            raise ExternalReferenceError(file.which, "one sparse extent, its own", repr(line[:80]))
    kind = settings.get("createtype", "")
    if kind not in _ALLOWED or len(extents) != 1:
        expected = "one extent of type " + " or ".join(_ALLOWED.values())
        raise ExternalReferenceError(file.which, expected, f"{len(extents)} of type {kind[:40]!r}")
    if "parentfilenamehint" in settings or settings.get("parentcid", _NO_PARENT) != _NO_PARENT:
        raise ExternalReferenceError(file.which, "a whole disk", "a parent disk")
    return _ALLOWED[kind]


def _check_directory(file: File, header: _Header, at: int) -> tables.Array:
    """The offsets in the file of the grain tables, which must lie within it."""
    length = _tables(header) * 4
    starts: tables.Array = tables.load(file, at * SECTOR, length, "<u4", "the grain directory")
    starts = starts[starts != 0] * np.uint64(SECTOR)
    taken = [(0, _DESCRIPTOR_AT + header.descriptor_size * SECTOR), (at * SECTOR, length)]
    tables.require_within(file, starts + np.uint64(_TABLE), "grain tables")
    tables.require_apart(file, starts, _TABLE, "grain tables", taken)
    return starts


def _check_grains(file: File, header: _Header, starts: tables.Array) -> float:
    """Check that the grains lie within the file and apart from the tables; the guest bytes that they claim."""
    taken, unit = np.sort(starts), header.grain * SECTOR
    # Of the last grain some writers write no more than the disk has.
    length = 1 if header.compression else header.capacity * SECTOR % unit or unit
    claimed = 0.0
    for weight, entries in tables.sample(file, starts, _TABLE, "<u4", "a grain table"):
        grains = entries[entries > _ZERO] * np.uint64(SECTOR)
        tables.require_within(file, grains + np.uint64(length), "grains")
        tables.require_none_of(file, grains, taken, "grains")
        claimed += weight * len(grains) * unit
    return claimed
