"""VHDX, version 1 (Microsoft, [MS-VHDX])."""

import struct
from uuid import UUID

from darkroom.formats import (
    ExternalReferenceError,
    FeatureUnknownError,
    HeaderInvalidError,
    Inspection,
    UncleanError,
)
from darkroom.formats import fields as f
from darkroom.model import KiB, MiB, Reader
from darkroom.settings import Limits

_HEADER = struct.Struct("<4sIQ16s16s16sHHIQ")
_TABLE = struct.Struct("<4sIII")
_TABLE_ENTRY = struct.Struct("<16sQII")
_METADATA = struct.Struct("<8sHH")
_METADATA_ENTRY = struct.Struct("<16sIIII")
_BAT = UUID("2DC27766-F623-4200-9D64-115E9BFD4A08").bytes_le
_METADATA_REGION = UUID("8B7CA206-4790-4B9A-B8FE-575F050F886E").bytes_le
_FILE_PARAMETERS = UUID("CAA16737-FA36-4D43-B3B6-33F0AA44E76B").bytes_le
_SIZE = UUID("2FA54224-CD1B-4876-B211-5DBED83BF4B8").bytes_le
_PARENT = UUID("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C").bytes_le
_HAS_PARENT = 2
_MAX_ENTRIES = 2047


def inspect(reader: Reader, which: str, limits: Limits) -> Inspection:
    """Refuse parents, a log to replay, wrong checksums and regions outside of the file."""
    header = max(_headers(reader, which), key=lambda values: values[2])
    _, _, _, _, _, log, _, version, log_size, log_at = header
    if version != 1:
        raise FeatureUnknownError(which, "version 1", f"version {version}")
    if any(log):  # type: ignore[arg-type]
        raise UncleanError(which, "an empty log", "changes that were not written back")
    f.require(log_at % MiB == 0 and log_at + log_size <= reader.size, which, "a log within the file", log_at)
    regions = _regions(reader, which)
    items = _items(reader, *regions[_METADATA_REGION], which)
    block, flags = struct.unpack_from("<II", items[_FILE_PARAMETERS])
    (size,) = struct.unpack_from("<Q", items[_SIZE])
    if flags & _HAS_PARENT or _PARENT in items:
        raise ExternalReferenceError(which, "a whole disk", "a differencing disk, which needs its parent")
    f.require(MiB <= block <= 256 * MiB and block & (block - 1) == 0, which, "a block size", block)
    bat_at, bat_size = regions[_BAT]
    f.require(-(-size // block) * 8 <= bat_size, which, "a block table for the whole disk", bat_size)
    _check_bat(f.read(reader, bat_at, min(bat_size, limits.header_size), which, "the block table"), reader, which)
    return Inspection("vhdx", size, "fixed" if flags & 1 else "dynamic", {"block_size": block})


def _headers(reader: Reader, which: str) -> list[tuple[int, ...]]:
    """The headers, at 64 and 128 KiB, whose checksum is right; at least one must be."""
    found = []
    for at in (64 * KiB, 128 * KiB):
        data = bytearray(f.read(reader, at, 4 * KiB, which, "a header"))
        if data[:4] == b"head" and _checksum_is_right(data):
            found.append(_HEADER.unpack_from(data))
    if not found:
        raise HeaderInvalidError(which, "a header whose checksum is right", "none")
    return found


def _regions(reader: Reader, which: str) -> dict[bytes, tuple[int, int]]:
    for at in (192 * KiB, 256 * KiB):
        data = bytearray(f.read(reader, at, 64 * KiB, which, "a region table"))
        magic, _, count, _ = _TABLE.unpack_from(data)
        if magic != b"regi" or count > _MAX_ENTRIES or not _checksum_is_right(data):
            continue
        found = {}
        for number in range(count):
            kind, offset, length, required = _TABLE_ENTRY.unpack_from(data, 16 + 32 * number)
            f.require(offset >= MiB and offset + length <= reader.size, which, "regions within the file", offset)
            if required & 1 and kind not in (_BAT, _METADATA_REGION):
                raise FeatureUnknownError(which, "known regions", str(UUID(bytes_le=kind)))
            found[kind] = (offset, length)
        if _BAT in found and _METADATA_REGION in found:
            return found
    raise HeaderInvalidError(which, "a region table whose checksum is right", "none")


def _items(reader: Reader, at: int, size: int, which: str) -> dict[bytes, bytes]:
    table = f.read(reader, at, 64 * KiB, which, "the metadata table")
    magic, _, count = _METADATA.unpack_from(table)
    f.require(magic == b"metadata" and count <= _MAX_ENTRIES, which, "a metadata table", count)
    items = {}
    for number in range(count):
        kind, offset, length, _, _ = _METADATA_ENTRY.unpack_from(table, 32 + 32 * number)
        f.require(length <= MiB and offset + length <= size, which, "metadata within its region", offset)
        items[kind] = f.read(reader, at + offset, length, which, "metadata")
    for kind, length in ((_FILE_PARAMETERS, 8), (_SIZE, 8)):
        f.require(len(items.get(kind, b"")) >= length, which, "the size of the disk and its blocks", "none")
    return items


def _check_bat(table: bytes, reader: Reader, which: str) -> None:
    for (entry,) in struct.iter_unpack("<Q", table[: len(table) // 8 * 8]):
        state, offset = entry & 7, (entry >> 20) * MiB
        if state in (6, 7):
            f.require(MiB <= offset < reader.size, which, f"blocks within {reader.size} bytes", offset)


def _checksum_is_right(data: bytearray) -> bool:
    """CRC-32C of the structure with its checksum as zero."""
    (expected,) = struct.unpack_from("<I", data, 4)
    data[4:8] = bytes(4)
    return crc32c(data) == int(expected)


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC = _crc_table()


def crc32c(data: bytes | bytearray) -> int:
    """CRC-32C (Castagnoli, RFC 3720 appendix B.4); headers of at most 64 KiB are all that it is used for."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF
