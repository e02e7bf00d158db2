"""qcow, version 1 (QEMU, block/qcow.c)."""

import struct

import numpy as np

from darkroom.formats import EncryptedPayloadError, ExternalReferenceError, Inspection, tables
from darkroom.formats.fields import SECTOR, File
from darkroom.formats.tables import Array
from darkroom.model import MiB

_HEADER = struct.Struct(">4sIQIIQBBHIQ")
_COMPRESSED = np.uint64(1 << 63)
_MAX_L1 = 32 * MiB


def inspect(file: File) -> Inspection:
    """Refuse a backing file, encryption, and tables and clusters outside of the file."""
    _, _, backing, backing_size, _, size, bits, l2_bits, _, crypt, l1_at = file.unpack(_HEADER, 0, "a qcow header")
    if backing or backing_size:
        raise ExternalReferenceError(file.which, "no backing file", "one")
    if crypt:
        raise EncryptedPayloadError(file.which, "no encryption", f"method {crypt}")
    file.require(9 <= bits <= 16, "cluster bits 9 to 16", bits)
    file.require(6 <= l2_bits <= 13, "L2 bits 6 to 13", l2_bits)
    file.require_disk(size)
    file.require(size % SECTOR == 0, "a disk of whole sectors", size)
    l1_size = -(-size // (1 << (bits + l2_bits))) * 8
    file.require(l1_size <= _MAX_L1, f"an L1 table of at most {_MAX_L1} bytes", l1_size)
    places = [("the header", 0, _HEADER.size), ("the L1 table", l1_at, l1_size)]
    file.require_apart(places)
    starts = tables.load(file, l1_at, l1_size, ">u8", "the L1 table")
    starts = starts[starts != 0]
    l2_size = 8 << l2_bits
    file.require(not np.any(starts >= _COMPRESSED), "L2 tables within the file", "one far outside")
    tables.require_within(file, starts + np.uint64(l2_size), "L2 tables")
    tables.require_apart(file, starts, l2_size, "L2 tables", [place[1:] for place in places])
    claimed = 0.0
    taken = np.sort(starts)
    for weight, entries in tables.sample(file, starts, l2_size, ">u8", "an L2 table"):
        claimed += weight * (1 << bits) * _check_l2(file, entries[entries != 0], bits, taken)
    tables.require_ratio(file, claimed, size)
    return Inspection("qcow", size, "v1", {"cluster_size": 1 << bits})


def _check_l2(file: File, entries: Array, bits: int, taken: Array) -> int:
    """How many clusters the entries of L2 tables claim."""
    compressed = entries[entries >= _COMPRESSED] & ~_COMPRESSED
    # The length in bytes of a compressed cluster lies above its address.
    shift = np.uint64(63 - bits)
    tables.require_within(file, (compressed & np.uint64((1 << int(shift)) - 1)) + (compressed >> shift), "clusters")
    plain = entries[entries < _COMPRESSED]
    tables.require_within(file, plain + np.uint64(1), "clusters")
    tables.require_none_of(file, plain, taken, "clusters")
    return len(entries)
