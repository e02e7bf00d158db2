"""QED (QEMU, docs/interop/qed_spec.rst)."""

import struct

import numpy as np

from darkroom.formats import (
    ExternalReferenceError,
    FeatureUnknownError,
    Inspection,
    UncleanError,
    tables,
)
from darkroom.formats.fields import SECTOR, File

_HEADER = struct.Struct("<4sIIIQQQQQII")
_BACKING, _NEED_CHECK, _BACKING_RAW = 1, 2, 4
_ZERO = 1


def inspect(file: File) -> Inspection:
    """Refuse a backing file, a file that needs a check, and tables and clusters outside of the file."""
    values = file.unpack(_HEADER, 0, "a QED header")
    _, cluster, table_clusters, header_clusters, features, _, _, l1_at, size, backing, backing_size = values
    if features & (_BACKING | _BACKING_RAW) or backing or backing_size:
        raise ExternalReferenceError(file.which, "no backing file", "one")
    if features & ~_NEED_CHECK:
        raise FeatureUnknownError(file.which, "known features", f"{features:#x}")
    if features & _NEED_CHECK:
        raise UncleanError(file.which, "a clean file", "its need-check bit is set")
    file.require_disk(size)
    file.require(size % SECTOR == 0, "a disk of whole sectors", size)
    file.require(1 << 12 <= cluster <= 1 << 26 and cluster & (cluster - 1) == 0, "a cluster size", cluster)
    file.require(table_clusters in (1, 2, 4, 8, 16), "tables of 1 to 16 clusters", table_clusters)
    file.require(header_clusters > 0, "a header within the file", header_clusters)
    length = table_clusters * cluster
    file.require(size <= (length // 8) ** 2 * cluster, "a disk that its tables can hold", size)
    places = [("the header", 0, header_clusters * cluster), ("the L1 table", l1_at, length)]
    file.require_apart(places)
    starts = tables.load(file, l1_at, length, "<u8", "the L1 table")
    starts = starts[starts != 0]
    tables.require_aligned(file, np.append(starts, np.uint64(l1_at)), cluster, "tables")
    file.require(not np.any(starts > np.uint64(file.size)), f"L2 tables within {file.size} bytes", "one outside")
    tables.require_within(file, starts + np.uint64(length), "L2 tables")
    tables.require_apart(file, starts, length, "L2 tables", [place[1:] for place in places])
    claimed = 0.0
    taken = np.sort(starts)
    for weight, entries in tables.sample(file, starts, length, "<u8", "an L2 table"):
        used = entries[entries > _ZERO]
        tables.require_aligned(file, used, cluster, "clusters")
        tables.require_within(file, used + np.uint64(1), "clusters")
        tables.require_none_of(file, used, taken, "clusters")
        claimed += weight * cluster * len(used)
    tables.require_ratio(file, claimed, size)
    return Inspection("qed", size, "", {"cluster_size": cluster})
