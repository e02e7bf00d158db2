"""Tables of addresses: that they point into the file, apart from each other, and how much data they claim.

A file of 64 MiB of tables has eight million entries: they are looked at as arrays.
"""

import random
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from darkroom.formats import ExpansionBombError
from darkroom.formats.fields import File
from darkroom.model import MiB

Array = NDArray[np.uint64]

_RUN = 1 * MiB
_PARTS = 64
_SMALL = 64 * MiB
"""What any file may expand to."""


def load(file: File, offset: int, length: int, kind: str, what: str) -> Array:
    """The entries of a table that must lie within the file; of one beyond the budget, the first part."""
    file.require(offset >= 0 and offset + length <= file.size, f"{what} within {file.size} bytes", offset)
    length = min(length, file.left)
    return _entries(file.read(offset, length - length % np.dtype(kind).itemsize, what), kind)


def sample(file: File, starts: Array, length: int, kind: str, what: str) -> Iterator[tuple[float, Array]]:
    """The entries of the tables at `starts`, about 1 MiB at a time, with the weight that they stand for.

    Of more tables than the budget allows some are read, chosen at random: nobody can make a file for the choice.
    """
    total, allowed = len(starts), file.left // length
    if total > allowed:
        chosen = random.SystemRandom().sample(range(total), allowed)
        starts = starts[chosen]
    starts = np.sort(starts)
    breaks = np.flatnonzero(np.diff(starts) != length) + 1
    step = max(1, _RUN // length)
    parts: list[bytes] = []
    for run in np.split(starts, breaks) if len(starts) else []:
        for first in range(0, len(run), step):
            parts.append(file.read(int(run[first]), min(step, len(run) - first) * length, what))
            if sum(map(len, parts)) >= _RUN or len(parts) == _PARTS:
                yield total / len(starts), _entries(b"".join(parts), kind)
                parts = []
    if parts:
        yield total / len(starts), _entries(b"".join(parts), kind)


def require_within(file: File, ends: Array, what: str) -> None:
    """Raise HeaderInvalidError if one of the ends lies beyond the file's last sector."""
    if len(ends):
        file.require(int(ends.max()) <= (file.size + 511) // 512 * 512, f"{what} within {file.size} bytes", ends.max())


def require_aligned(file: File, starts: Array, to: int, what: str) -> None:
    """Raise HeaderInvalidError unless all starts are multiples."""
    file.require(not np.any(starts % np.uint64(to)), f"{what} aligned to {to}", "others")


def require_apart(file: File, starts: Array, length: int, what: str, taken: list[tuple[int, int]]) -> None:
    """Raise HeaderInvalidError unless so many bytes at each start overlap neither each other nor what is taken.

    `taken` are (start, length).
    """
    starts = np.sort(starts)
    # Sorted, so the differences of these unsigned numbers do not wrap.
    file.require(not np.any(np.diff(starts) < length), f"{what} apart from each other", "two that overlap")
    for start, size in taken:
        first = np.searchsorted(starts, np.uint64(max(0, start - length + 1)))
        last = np.searchsorted(starts, np.uint64(start + size))
        file.require(first == last, f"{what} apart from the tables", f"one over {start}")


def require_none_of(file: File, values: Array, taken: Array, what: str) -> None:
    """Raise HeaderInvalidError if a value is among `taken`, which is sorted."""
    if len(values) and len(taken):
        at = np.minimum(np.searchsorted(taken, values), len(taken) - 1)
        file.require(not np.any(taken[at] == values), f"{what} apart from the tables", "one over a table")


def require_ratio(file: File, claimed: float, size: int) -> None:
    """Raise ExpansionBombError if the data that tables claim, up to the disk's size, is out of proportion."""
    claimed = min(int(claimed), size)
    if claimed > max(_SMALL, file.size * file.limits.expansion):
        raise ExpansionBombError(file.which, f"at most {file.limits.expansion} times its size", f"{claimed} bytes")


def _entries(data: bytes, kind: str) -> Array:
    return np.frombuffer(data, kind).astype(np.uint64)
