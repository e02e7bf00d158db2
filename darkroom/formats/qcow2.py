"""qcow2, versions 2 and 3 (QEMU, docs/interop/qcow2.txt)."""

import struct
from array import array
from sys import byteorder

from darkroom.formats import (
    EncryptedPayloadError,
    ExpansionBombError,
    ExternalReferenceError,
    FeatureUnknownError,
    HeaderInvalidError,
    Inspection,
    SnapshotsError,
    UncleanError,
)
from darkroom.formats import fields as f
from darkroom.model import MiB, Reader
from darkroom.settings import Limits

_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")
_V3 = struct.Struct(">QQQII")
_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED_L2 = (1 << bit for bit in range(5))
_KNOWN = _DIRTY | _CORRUPT | _DATA_FILE | _COMPRESSION | _EXTENDED_L2
_EXT_END, _EXT_DATA_FILE, _EXT_CRYPTO = 0, 0x44415441, 0x0537BE77
_OFFSET = 0x00FFFFFFFFFFFE00
_COMPRESSED = 1 << 62
_MAX_L1 = 32 * MiB
_SMALL = 64 * MiB


def inspect(reader: Reader, which: str, limits: Limits) -> Inspection:
    """Refuse other files, snapshots, encryption, unclean or absurd ones; follow L1 and L2 within the file."""
    head = reader.read(0, min(reader.size, 4096))
    values = f.unpack(_HEADER, head, which, "a qcow2 header")
    _, version, backing, _, bits, size, crypt, l1_size, l1, refcounts, refcount_clusters, snapshots, _snapshots_at = (
        values
    )
    if version not in (2, 3):
        raise FeatureUnknownError(which, "version 2 or 3", f"version {version}")
    features = _features(head, which) if version == 3 else 0
    if backing:
        raise ExternalReferenceError(which, "no backing file", "one")
    if features & _DATA_FILE:
        raise ExternalReferenceError(which, "no external data file", "one")
    if features & ~_KNOWN:
        raise FeatureUnknownError(which, "known features", f"incompatible feature bits {features & ~_KNOWN:#x}")
    if crypt:
        raise EncryptedPayloadError(which, "no encryption", f"method {crypt}")
    if features & (_DIRTY | _CORRUPT):
        raise UncleanError(which, "a clean file", "its dirty or corrupt bit is set")
    if snapshots:
        raise SnapshotsError(which, "no snapshot", f"{snapshots}")
    f.require(9 <= bits <= 21, which, "cluster bits 9 to 21", bits)
    extended = bool(features & _EXTENDED_L2)
    f.require(not extended or bits >= 14, which, "clusters of 16 KiB or more with extended L2 entries", bits)
    _extensions(reader, head, version, 1 << bits, which)
    cluster = 1 << bits
    entry = 16 if extended else 8
    per_table = cluster // entry
    f.require(size <= limits.virtual_size or size < 1 << 63, which, "a disk size", size)
    f.require(l1_size * 8 <= _MAX_L1, which, f"an L1 table of at most {_MAX_L1} bytes", l1_size * 8)
    f.require(l1_size >= -(-size // (cluster * per_table)), which, "an L1 table for the whole disk", l1_size)
    f.require((l1 % cluster == 0 and l1 > 0) or not size, which, "an aligned L1 table", l1)
    f.require(refcounts % cluster == 0 and refcounts > 0, which, "an aligned refcount table", refcounts)
    f.require(refcount_clusters * cluster <= 64 * MiB, which, "a refcount table of at most 64 MiB", refcount_clusters)
    f.read(reader, refcounts, min(refcount_clusters * cluster, cluster), which, "the refcount table")
    table = _table(f.read(reader, l1, l1_size * 8, which, "the L1 table"))
    _follow(reader, table, cluster, entry, size, which, limits)
    compression = "zstd" if features & _COMPRESSION and head[104:105] == b"\1" else "zlib"
    details: dict[str, str | int | bool] = {
        "cluster_size": cluster,
        "compression": compression,
        "extended_l2": extended,
    }
    return Inspection("qcow2", size, f"v{version}", details)


def _features(head: bytes, which: str) -> int:
    incompatible, _, _, order, length = f.unpack(_V3, head[72:], which, "a version 3 header")
    f.require(order <= 6, which, "refcounts of at most 64 bits", order)
    f.require(104 <= length <= 4096, which, "a header of 104 to 4096 bytes", length)
    if incompatible & _COMPRESSION and (length < 105 or head[104] > 1):
        raise FeatureUnknownError(which, "compression zlib or zstd", "another")
    return incompatible


def _extensions(reader: Reader, head: bytes, version: int, cluster: int, which: str) -> None:
    """Walk the header extensions, which end within the first cluster."""
    at = struct.unpack_from(">I", head, 100)[0] if version == 3 else 72
    data = reader.read(0, min(cluster, reader.size))
    while at + 8 <= len(data):
        kind, length = struct.unpack_from(">II", data, at)
        if kind == _EXT_END:
            return
        if kind == _EXT_DATA_FILE:
            raise ExternalReferenceError(which, "no external data file", "the name of one")
        if kind == _EXT_CRYPTO:
            raise EncryptedPayloadError(which, "no encryption", "a LUKS header")
        at += 8 + (length + 7) // 8 * 8
    raise HeaderInvalidError(which, "header extensions that end", "none")


def _follow(reader: Reader, l1: "array[int]", cluster: int, entry: int, size: int, which: str, limits: Limits) -> None:
    """Check that L2 tables and clusters lie within the file, and how much data so many bytes claim to hold."""
    tables = [value & _OFFSET for value in l1 if value & _OFFSET]
    budget = limits.header_size
    claimed = 0
    for offset in tables:
        f.require(offset % cluster == 0, which, "aligned L2 tables", offset)
        if budget < cluster:
            f.require(offset + cluster <= reader.size, which, "L2 tables within the file", offset)
            claimed += cluster // entry * cluster
            continue
        budget -= cluster
        data = f.read(reader, offset, cluster, which, "an L2 table")
        claimed += _check_l2(reader, _table(data)[:: entry // 8], cluster, which)
    if min(claimed, size) > max(_SMALL, reader.size * limits.expansion):
        raise ExpansionBombError(which, f"at most {limits.expansion} times its size", f"{min(claimed, size)} bytes")


def _check_l2(reader: Reader, entries: "array[int]", cluster: int, which: str) -> int:
    """The guest bytes that the entries of one L2 table claim."""
    bits = cluster.bit_length() - 1
    compressed_mask = (1 << (62 - (bits - 8))) - 1
    used = 0
    for value in entries:
        if not value:
            continue
        if value & _COMPRESSED:
            start = value & compressed_mask
        else:
            start = value & _OFFSET
            f.require(start % cluster == 0, which, "aligned clusters", start)
        f.require(start < reader.size, which, f"clusters within {reader.size} bytes", start)
        used += bool(start)
    return used * cluster


def _table(data: bytes) -> "array[int]":
    table = array("Q", data)
    if byteorder == "little":
        table.byteswap()
    return table
