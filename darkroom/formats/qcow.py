"""qcow, version 1 (QEMU, block/qcow.c)."""

import struct

from darkroom.formats import EncryptedPayloadError, ExternalReferenceError, Inspection
from darkroom.formats import fields as f
from darkroom.model import MiB, Reader
from darkroom.settings import Limits

_HEADER = struct.Struct(">4sIQIIQBBHIQ")
_MAX_L1 = 32 * MiB


def inspect(reader: Reader, which: str, limits: Limits) -> Inspection:
    """Refuse a backing file, encryption, and tables outside of the file."""
    values = f.unpack(_HEADER, reader.read(0, min(reader.size, _HEADER.size)), which, "a qcow header")
    _, _, backing, backing_size, _, size, cluster_bits, l2_bits, _, crypt, l1 = values
    if backing or backing_size:
        raise ExternalReferenceError(which, "no backing file", "one")
    if crypt:
        raise EncryptedPayloadError(which, "no encryption", f"method {crypt}")
    f.require(9 <= cluster_bits <= 16, which, "cluster bits 9 to 16", cluster_bits)
    f.require(6 <= l2_bits <= 13, which, "L2 bits 6 to 13", l2_bits)
    l1_size = -(-size // (1 << (cluster_bits + l2_bits))) * 8
    f.require(l1_size <= _MAX_L1, which, f"an L1 table of at most {_MAX_L1} bytes", l1_size)
    f.read(reader, l1, l1_size, which, "the L1 table")
    return Inspection("qcow", size, "v1", {"cluster_size": 1 << cluster_bits})
