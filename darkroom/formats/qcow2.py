"""qcow2, versions 2 and 3 (QEMU, docs/interop/qcow2.txt)."""

import struct

import numpy as np

from darkroom.formats import (
    EncryptedPayloadError,
    ExternalReferenceError,
    FeatureUnknownError,
    HeaderInvalidError,
    Inspection,
    SnapshotsError,
    UncleanError,
    tables,
)
from darkroom.formats.fields import SECTOR, File
from darkroom.formats.tables import Array
from darkroom.model import MiB

_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")
_V3 = struct.Struct(">QQQII")
_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED_L2 = (1 << bit for bit in range(5))
_KNOWN = _DIRTY | _CORRUPT | _DATA_FILE | _COMPRESSION | _EXTENDED_L2
_EXT_END, _EXT_DATA_FILE, _EXT_CRYPTO = 0, 0x44415441, 0x0537BE77
_OFFSET = np.uint64(0x00FFFFFFFFFFFE00)
_REFCOUNT_OFFSET = np.uint64(0xFFFFFFFFFFFFFE00)
_COMPRESSED = np.uint64(1 << 62)
_MAX_L1 = 32 * MiB
_MAX_REFCOUNTS = 8 * MiB


def inspect(file: File) -> Inspection:
    """Refuse other files, snapshots, encryption, unclean or absurd ones; follow L1 and L2 within the file."""
    values = file.unpack(_HEADER, 0, "a qcow2 header")
    _, version, backing, _, bits, size, crypt, l1_size, l1_at, refs_at, refs_clusters, snapshots, _ = values
    if version not in (2, 3):
        raise FeatureUnknownError(file.which, "version 2 or 3", f"version {version}")
    if backing:
        raise ExternalReferenceError(file.which, "no backing file", "one")
    features, header_size, compression = _features(file) if version == 3 else (0, _HEADER.size, "zlib")
    if crypt:
        raise EncryptedPayloadError(file.which, "no encryption", f"method {crypt}")
    if snapshots:
        raise SnapshotsError(file.which, "no snapshot", f"{snapshots}")
    file.require(9 <= bits <= 21, "cluster bits 9 to 21", bits)
    _extensions(file, header_size, 1 << bits)
    if features & (_DIRTY | _CORRUPT):
        raise UncleanError(file.which, "a clean file", "its dirty or corrupt bit is set")
    file.require_disk(size)
    file.require(size % SECTOR == 0, "a disk of whole sectors", size)

    cluster, entry = 1 << bits, 16 if features & _EXTENDED_L2 else 8
    file.require(entry == 8 or bits >= 14, "clusters of 16 KiB or more with extended L2 entries", bits)
    file.require(l1_size * 8 <= _MAX_L1, f"an L1 table of at most {_MAX_L1} bytes", l1_size * 8)
    file.require(l1_size * (cluster // entry) * cluster >= size, "an L1 table for the whole disk", l1_size)
    refs_size = refs_clusters * cluster
    file.require(0 < refs_size <= _MAX_REFCOUNTS, f"a refcount table of at most {_MAX_REFCOUNTS} bytes", refs_size)
    places = [("the header", 0, header_size), ("the L1 table", l1_at, l1_size * 8)]
    places += [("the refcount table", refs_at, refs_size)]
    file.require(l1_at % cluster == refs_at % cluster == 0, "aligned tables", (l1_at, refs_at))
    file.require_apart(places)
    _follow(file, [place[1:] for place in places], bits, entry, size)
    details: dict[str, str | int | bool] = {
        "cluster_size": cluster,
        "compression": compression,
        "extended_l2": entry == 16,
    }
    return Inspection("qcow2", size, f"v{version}", details)


def _features(file: File) -> tuple[int, int, str]:
    """The incompatible features, the size of the header and the kind of compression."""
    incompatible, _, _, order, length = file.unpack(_V3, _HEADER.size, "a version 3 header")
    if incompatible & _DATA_FILE:
        raise ExternalReferenceError(file.which, "no external data file", "one")
    if incompatible & ~_KNOWN:
        raise FeatureUnknownError(file.which, "known features", f"feature bits {incompatible & ~_KNOWN:#x}")
    file.require(order <= 6, "refcounts of at most 64 bits", order)
    file.require(104 <= length <= 4096 and length % 8 == 0, "a header of 104 to 4096 bytes", length)
    compression = file.read(104, 1, "a compression type")[0] if length > 104 else 0
    if compression > 1:
        raise FeatureUnknownError(file.which, "compression zlib or zstd", f"type {compression}")
    file.require(bool(incompatible & _COMPRESSION) == bool(compression), "a compression bit for zstd", compression)
    return incompatible, length, "zstd" if compression else "zlib"


def _extensions(file: File, at: int, cluster: int) -> None:
    """Walk the header extensions, which end within the first cluster."""
    data = file.peek(0, cluster)
    while at + 8 <= len(data):
        kind, length = struct.unpack_from(">II", data, at)
        if kind == _EXT_END:
            return
        if kind == _EXT_DATA_FILE:
            raise ExternalReferenceError(file.which, "no external data file", "the name of one")
        if kind == _EXT_CRYPTO:
            raise EncryptedPayloadError(file.which, "no encryption", "a LUKS header")
        at += 8 + (length + 7) // 8 * 8
    raise HeaderInvalidError(file.which, "header extensions that end within the first cluster", "none")


def _follow(file: File, taken: list[tuple[int, int]], bits: int, entry: int, size: int) -> None:
    """Check that L2 tables, refcount blocks and clusters lie within the file, and how much data they claim."""
    cluster = 1 << bits
    _, (l1_at, l1_size), (refs_at, refs_size) = taken
    starts = tables.load(file, l1_at, l1_size, ">u8", "the L1 table") & _OFFSET
    starts = starts[starts != 0]
    refs = tables.load(file, refs_at, refs_size, ">u8", "the refcount table") & _REFCOUNT_OFFSET
    both = np.sort(np.concatenate([starts, refs[refs != 0]]))
    tables.require_aligned(file, both, cluster, "tables")
    tables.require_within(file, both, "refcount blocks")
    tables.require_within(file, starts + np.uint64(cluster), "L2 tables")
    tables.require_apart(file, both, cluster, "L2 tables and refcount blocks", taken)
    claimed = 0.0
    for weight, entries in tables.sample(file, starts, cluster, ">u8", "an L2 table"):
        claimed += weight * cluster * _check_l2(file, entries, entry, bits, both)
    tables.require_ratio(file, claimed, size)


def _check_l2(file: File, entries: Array, entry: int, bits: int, taken: Array) -> int:
    """How many clusters the entries of L2 tables claim."""
    entries = entries[:: entry // 8]
    compressed = entries[(entries & _COMPRESSED) != 0]
    # The number of sectors, less one, that a compressed cluster touches lies above its address.
    shift = np.uint64(62 - (bits - 8))
    at = compressed & np.uint64((1 << int(shift)) - 1)
    sectors = ((compressed & np.uint64((1 << 62) - 1)) >> shift) + np.uint64(1)
    tables.require_within(file, at // np.uint64(SECTOR) * np.uint64(SECTOR) + sectors * np.uint64(SECTOR), "clusters")
    plain = entries[(entries & _COMPRESSED) == 0] & _OFFSET
    plain = plain[plain != 0]
    tables.require_aligned(file, plain, 1 << bits, "clusters")
    # With extended entries, the end of the last cluster need not have been written.
    length = 1 << bits if entry == 8 else 1
    tables.require_within(file, plain + np.uint64(length), "clusters")
    tables.require_none_of(file, plain, taken, "clusters")
    return len(compressed) + len(plain)
