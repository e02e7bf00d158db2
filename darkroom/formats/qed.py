"""QED (QEMU, docs/interop/qed_spec.rst)."""

import struct

from darkroom.formats import (
    ExternalReferenceError,
    FeatureUnknownError,
    Inspection,
    UncleanError,
)
from darkroom.formats import fields as f
from darkroom.model import Reader
from darkroom.settings import Limits

_HEADER = struct.Struct("<4sIIIQQQQQII")
_BACKING, _NEED_CHECK, _BACKING_RAW = 1, 2, 4


def inspect(reader: Reader, which: str, limits: Limits) -> Inspection:
    """Refuse a backing file, a file that needs a check, and tables outside of the file."""
    values = f.unpack(_HEADER, reader.read(0, min(reader.size, _HEADER.size)), which, "a QED header")
    _, cluster, table_size, header_size, features, _, _, l1, size, backing, backing_size = values
    if features & (_BACKING | _BACKING_RAW) or backing or backing_size:
        raise ExternalReferenceError(which, "no backing file", "one")
    if features & ~(_BACKING | _NEED_CHECK | _BACKING_RAW):
        raise FeatureUnknownError(which, "known features", f"{features:#x}")
    if features & _NEED_CHECK:
        raise UncleanError(which, "a clean file", "its need-check bit is set")
    f.require(1 << 12 <= cluster <= 1 << 26 and cluster & (cluster - 1) == 0, which, "a cluster size", cluster)
    f.require(table_size in (1, 2, 4, 8, 16), which, "tables of 1 to 16 clusters", table_size)
    f.require(0 < header_size * cluster <= reader.size, which, "a header within the file", header_size)
    f.require(l1 % cluster == 0, which, "an aligned L1 table", l1)
    f.read(reader, l1, min(table_size * cluster, limits.header_size), which, "the L1 table")
    entries = table_size * cluster // 8
    f.require(size <= entries * entries * cluster, which, "a disk that its tables can hold", size)
    return Inspection("qed", size, "", {"cluster_size": cluster})
