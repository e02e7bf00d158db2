"""VDI, version 1.1 (VirtualBox, Storage/VDICore.h; QEMU, block/vdi.c)."""

import struct

from darkroom.formats import ExternalReferenceError, FeatureUnknownError, Inspection
from darkroom.formats import fields as f
from darkroom.model import MiB, Reader
from darkroom.settings import Limits

_HEADER = struct.Struct("<64sIIIII256sIIIIIIIQIIII16s16s16s16s")
_DYNAMIC, _STATIC = 1, 2
_BLOCK = 1 * MiB
_UNALLOCATED = 0xFFFFFFFE


def inspect(reader: Reader, which: str, limits: Limits) -> Inspection:
    """Refuse differencing and undo images, parents, and a map outside of the file."""
    values = f.unpack(_HEADER, reader.read(0, min(reader.size, 512)), which, "a VDI header")
    (_, _, version, _, kind, _, _, map_at, data_at, _, _, _, sector, _, size, block, _, blocks, used, *ids) = values
    if version != 0x00010001:
        raise FeatureUnknownError(which, "version 1.1", f"{version >> 16}.{version & 0xFFFF}")
    if kind not in (_DYNAMIC, _STATIC):
        raise ExternalReferenceError(which, "a whole image", f"a differencing or undo image (type {kind})")
    if any(ids[2]) or any(ids[3]):  # type: ignore[arg-type]
        raise ExternalReferenceError(which, "no parent", "the id of one")
    f.require(sector == 512 and block == _BLOCK, which, "sectors of 512 bytes, blocks of 1 MiB", (sector, block))
    f.require(blocks == -(-size // _BLOCK), which, "a block map for the whole disk", blocks)
    f.require(used <= blocks and blocks * 4 <= limits.header_size, which, "a block map of a sane size", blocks)
    f.require(data_at % 512 == 0 and data_at >= map_at, which, "data behind the map", data_at)
    data = f.read(reader, map_at, blocks * 4, which, "the block map")
    entries = [entry for (entry,) in struct.iter_unpack("<I", data) if entry < _UNALLOCATED]
    if entries:
        f.require(max(entries) < used, which, f"blocks below {used}", max(entries))
        f.require(data_at + max(entries) * _BLOCK < reader.size, which, "blocks within the file", max(entries))
        f.require(len(set(entries)) == len(entries), which, "each block once", "one twice")
    return Inspection("vdi", size, "dynamic" if kind == _DYNAMIC else "static")
