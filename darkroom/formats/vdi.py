"""VDI, version 1.1 (VirtualBox, Storage/VDICore.h; QEMU, block/vdi.c)."""

import struct

import numpy as np

from darkroom.formats import ExternalReferenceError, FeatureUnknownError, Inspection, tables
from darkroom.formats.fields import SECTOR, File
from darkroom.model import MiB

_HEADER = struct.Struct("<64sIIIII256sIIIIIIIQIIII16s16s16s16s")
_DYNAMIC, _STATIC = 1, 2
_BLOCK = 1 * MiB
_DISCARDED = 0xFFFFFFFE  # and 0xffffffff: unallocated


def inspect(file: File) -> Inspection:
    """Refuse differencing and undo images, parents, and a map outside of the file."""
    values = file.unpack(_HEADER, 0, "a VDI header")
    (_, _, version, _, kind, _, _, map_at, data_at, _, _, _, sector, _, size, block, extra, blocks, used, *ids) = values
    if version != 0x00010001:
        raise FeatureUnknownError(file.which, "version 1.1", f"{version >> 16}.{version & 0xFFFF}")
    if kind not in (_DYNAMIC, _STATIC):
        raise ExternalReferenceError(file.which, "a whole image", f"a differencing or undo image (type {kind})")
    if any(ids[2]) or any(ids[3]):
        raise ExternalReferenceError(file.which, "no parent", "the id of one")
    if extra:
        raise FeatureUnknownError(file.which, "blocks without a header of their own", f"{extra} bytes")
    file.require_disk(size)
    file.require(sector == SECTOR and block == _BLOCK, "sectors of 512 bytes, blocks of 1 MiB", (sector, block))
    file.require(blocks == -(-size // _BLOCK), "a block map for the whole disk", blocks)
    file.require(used <= blocks, f"at most {blocks} blocks", used)
    file.require(map_at % SECTOR == data_at % SECTOR == 0, "an aligned map and data", (map_at, data_at))
    places = [("the header", 0, _HEADER.size), ("the block map", map_at, blocks * 4), ("the data", data_at, 0)]
    file.require_apart(places)
    file.require(data_at >= map_at, "data behind the map", data_at)
    entries = tables.load(file, map_at, blocks * 4, "<u4", "the block map")
    entries = entries[entries < _DISCARDED]
    starts = np.uint64(data_at) + entries * np.uint64(_BLOCK)
    tables.require_within(file, starts + np.uint64(_BLOCK), "blocks")
    tables.require_apart(file, starts, _BLOCK, "blocks", [])
    # Some tools make disks of odd sizes; QEMU shows them with zeros up to a whole sector.
    return Inspection("vdi", -(-size // SECTOR) * SECTOR, "dynamic" if kind == _DYNAMIC else "static")
