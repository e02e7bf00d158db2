"""VHDX, version 1 (Microsoft, [MS-VHDX])."""

import struct
from uuid import UUID

import numpy as np

from darkroom.formats import (
    ExternalReferenceError,
    FeatureUnknownError,
    HeaderInvalidError,
    Inspection,
    UncleanError,
    crc32c,
    tables,
)
from darkroom.formats.fields import SECTOR, File
from darkroom.model import KiB, MiB

_HEADER = struct.Struct("<4sIQ16s16s16sHHIQ")
_TABLE = struct.Struct("<4sIII")
_TABLE_ENTRY = struct.Struct("<16sQII")
_METADATA = struct.Struct("<8sHH")
_METADATA_ENTRY = struct.Struct("<16sIIII")
_BAT = UUID("2DC27766-F623-4200-9D64-115E9BFD4A08").bytes_le
_METADATA_REGION = UUID("8B7CA206-4790-4B9A-B8FE-575F050F886E").bytes_le
_PARAMETERS = UUID("CAA16737-FA36-4D43-B3B6-33F0AA44E76B").bytes_le
_SIZE = UUID("2FA54224-CD1B-4876-B211-5DBED83BF4B8").bytes_le
_SECTOR_SIZE = UUID("8141BF1D-A96F-4709-BA47-F233A8FAAB5F").bytes_le
_PHYSICAL_SECTOR_SIZE = UUID("CDA348C7-445D-4471-9CC9-E9885251C556").bytes_le
_DISK_ID = UUID("BECA12AB-B2E6-4523-93EF-C309E000C746").bytes_le
_PARENT = UUID("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C").bytes_le
_LENGTHS = {_PARAMETERS: 8, _SIZE: 8, _SECTOR_SIZE: 4, _PHYSICAL_SECTOR_SIZE: 4, _DISK_ID: 16}
_FIXED, _HAS_PARENT = 1, 2
_REQUIRED = 4
_PRESENT, _PARTIAL = 6, 7
_MAX_ENTRIES = 2047


def inspect(file: File) -> Inspection:
    """Refuse parents, a log to replay, wrong checksums and regions outside of the file."""
    log_at, log_size = _log(file)
    regions = _regions(file)
    (bat_at, bat_size), (items_at, items_size) = regions[_BAT], regions[_METADATA_REGION]
    places = [("the headers", 0, MiB), ("the log", log_at, log_size), ("the block table", bat_at, bat_size)]
    places += [("the metadata", items_at, items_size)]
    file.require_apart(places)
    items = _items(file, items_at, items_size)
    block, flags = struct.unpack("<II", items[_PARAMETERS])
    (size,), (sector,) = struct.unpack("<Q", items[_SIZE]), struct.unpack("<I", items[_SECTOR_SIZE])
    if flags & _HAS_PARENT:
        raise ExternalReferenceError(file.which, "a whole disk", "a differencing disk, which needs its parent")
    file.require_disk(size)
    file.require(sector in (512, 4096) and size % sector == 0, "sectors of 512 or 4096 bytes", sector)
    file.require(MiB <= block <= 256 * MiB and block & (block - 1) == 0, "a block size", block)
    _check_blocks(file, [place[1:] for place in places], -(-size // block), block, (sector << 23) // block)
    details: dict[str, str | int | bool] = {"block_size": block}
    if sector != SECTOR:
        details["sector_size"] = sector
    return Inspection("vhdx", size, "fixed" if flags & _FIXED else "dynamic", details)


def _log(file: File) -> tuple[int, int]:
    """Where the log lies, which must be empty, by the header that is current: its checksum right, its number higher."""
    found = []
    for at in (64 * KiB, 128 * KiB):
        data = bytearray(file.read(at, 4 * KiB, "a header"))
        if data[:4] == b"head" and _checksum_is_right(data):
            found.append(_HEADER.unpack_from(data))
    file.require(bool(found), "a header whose checksum is right", "none")
    same_number = len(found) == 2 and found[0][2] == found[1][2]
    file.require(not same_number or found[0] == found[1], "one current header", "two that differ")
    _, _, _, _, _, log, log_version, version, log_size, log_at = max(found, key=lambda values: values[2])
    if version != 1 or log_version:
        raise FeatureUnknownError(file.which, "version 1 with log version 0", f"{version} with {log_version}")
    if any(log):
        raise UncleanError(file.which, "an empty log", "changes that were not written back")
    file.require(log_at % MiB == log_size % MiB == 0, "an aligned log", (log_at, log_size))
    return log_at, log_size


def _regions(file: File) -> dict[bytes, tuple[int, int]]:
    for at in (192 * KiB, 256 * KiB):
        data = bytearray(file.read(at, 64 * KiB, "a region table"))
        magic, _, count, _ = _TABLE.unpack_from(data)
        if magic != b"regi" or count > _MAX_ENTRIES or not _checksum_is_right(data):
            continue
        found = {}
        for number in range(count):
            kind, offset, length, required = _TABLE_ENTRY.unpack_from(data, 16 + 32 * number)
            if required & 1 and kind not in (_BAT, _METADATA_REGION):
                raise FeatureUnknownError(file.which, "known regions", str(UUID(bytes_le=kind)))
            file.require(kind not in found, "each region once", UUID(bytes_le=kind))
            found[kind] = (offset, length)
        file.require(_BAT in found and _METADATA_REGION in found, "a block table and metadata", "none")
        return found
    raise HeaderInvalidError(file.which, "a region table whose checksum is right", "none")


def _items(file: File, at: int, size: int) -> dict[bytes, bytes]:
    table = file.read(at, 64 * KiB, "the metadata table")
    magic, _, count = _METADATA.unpack_from(table)
    file.require(magic == b"metadata" and count <= _MAX_ENTRIES, "a metadata table", count)
    items: dict[bytes, bytes] = {}
    for number in range(count):
        kind, offset, length, flags, _ = _METADATA_ENTRY.unpack_from(table, 32 + 32 * number)
        if kind == _PARENT:
            raise ExternalReferenceError(file.which, "a whole disk", "the place of a parent")
        if kind not in _LENGTHS:
            if flags & _REQUIRED:
                raise FeatureUnknownError(file.which, "known metadata", str(UUID(bytes_le=kind)))
            continue
        file.require(kind not in items, "each item of metadata once", UUID(bytes_le=kind))
        file.require(length == _LENGTHS[kind] and offset + length <= size, "metadata within its region", offset)
        items[kind] = file.read(at + offset, length, "metadata")
    for kind in (_PARAMETERS, _SIZE, _SECTOR_SIZE):
        file.require(kind in items, "the sizes of the disk, its blocks and sectors", "none")
    return items


def _check_blocks(file: File, taken: list[tuple[int, int]], count: int, block: int, ratio: int) -> None:
    """Behind each `ratio` entries for blocks, the table has one for a bitmap that only disks with a parent use."""
    total = count + (count - 1) // ratio
    _, _, (bat_at, bat_size), _ = taken
    file.require(total * 8 <= bat_size, "a block table for the whole disk", bat_size)
    entries = tables.load(file, bat_at, total * 8, "<u8", "the block table")
    entries = entries[np.arange(len(entries)) % (ratio + 1) != ratio]
    states = entries & np.uint64(7)
    file.require(not np.any(states == _PARTIAL), "whole blocks", "one that a parent completes")
    starts = entries[states == _PRESENT] >> np.uint64(20) << np.uint64(20)
    file.require(not np.any(starts > np.uint64(file.size)), f"blocks within {file.size} bytes", "one outside")
    tables.require_within(file, starts + np.uint64(block), "blocks")
    tables.require_apart(file, starts, block, "blocks", taken)


def _checksum_is_right(data: bytearray) -> bool:
    """CRC-32C of the structure with its checksum as zero."""
    (expected,) = struct.unpack_from("<I", data, 4)
    data[4:8] = bytes(4)
    return crc32c.crc32c(data) == int(expected)
