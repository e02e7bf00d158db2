"""What a partition table shows: MBR, or GPT (UEFI specification §5), and whether there is an EFI system partition."""

import struct
from dataclasses import dataclass, field
from uuid import UUID

from darkroom.model import KiB, Reader

_MBR_ENTRY = struct.Struct("<B3sB3sII")
_GPT = struct.Struct("<8sIIIIQQQQ16sQIII")
_GPT_ENTRY = struct.Struct("<16s16sQQQ")
_ESP = UUID("C12A7328-F81F-11D2-BA4B-00A0C93EC93B")
_MBR_ESP, _PROTECTIVE = 0xEF, 0xEE
_ENTRY_SIZES = (128, 256, 512)
_MAX_TABLE = 32 * KiB
_SECTOR = 512


@dataclass(frozen=True, slots=True)
class Partition:
    """A primary partition: number from 1, start and size in bytes, and its type (MBR byte or GPT id)."""

    number: int
    start: int
    size: int
    type: str


@dataclass(frozen=True, slots=True)
class PartitionTable:
    """`scheme` is mbr, gpt or none; `esp`: there is an EFI system partition."""

    scheme: str = "none"
    esp: bool = False
    entries: list[Partition] = field(default_factory=list)


def partitions(disk: Reader) -> PartitionTable:
    """The partition table of a disk, by its guest-visible bytes; junk is no table. Reads at most 34 KiB."""
    if disk.size < 2 * _SECTOR:
        return PartitionTable()
    sector = disk.read(0, _SECTOR)
    if sector[510:] != b"\x55\xaa":
        return PartitionTable()
    entries = []
    for number in range(4):
        active, _, kind, _, start, count = _MBR_ENTRY.unpack_from(sector, 446 + 16 * number)
        if active not in (0, 0x80):
            return PartitionTable()  # a boot sector of a file system, whose code lies there
        if kind and count:
            entries.append(Partition(number + 1, start * _SECTOR, count * _SECTOR, f"{kind:#04x}"))
    kinds = {int(entry.type, 16) for entry in entries}
    if _PROTECTIVE in kinds:
        tables = (_gpt(disk, sector_size) for sector_size in (512, 4096))
        return next(filter(None, tables), PartitionTable("mbr", entries=entries))
    return PartitionTable("mbr" if entries else "none", _MBR_ESP in kinds, entries)


def _gpt(disk: Reader, unit: int) -> PartitionTable | None:
    """The GPT of a disk with sectors of so many bytes, by its first copy."""
    if disk.size < 2 * unit:
        return None
    magic, *_, at, count, size, _ = _GPT.unpack_from(disk.read(unit, _SECTOR))
    if magic != b"EFI PART" or size not in _ENTRY_SIZES or count * size > _MAX_TABLE:
        return None
    if at * unit + count * size > disk.size:
        return None
    table = disk.read(at * unit, count * size) if count else b""
    entries = []
    for number in range(count):
        kind, _, first, last, _ = _GPT_ENTRY.unpack_from(table, number * size)
        if any(kind) and last >= first:
            identity = str(UUID(bytes_le=kind))
            entries.append(Partition(number + 1, first * unit, (last - first + 1) * unit, identity))
    return PartitionTable("gpt", any(entry.type == str(_ESP) for entry in entries), entries)
