"""A disk as it is now, of which only what has changed is read; the rest comes from an earlier image of it."""

from bisect import bisect_right
from collections.abc import Iterator
from threading import Lock

from darkroom.model import CHUNK_SIZE, Extent, GiB, Reader

_WINDOW = 64 * GiB


class Overlaid:
    """A Reader of `now` where `changes` has data extents, and of `before` elsewhere.

    Changes are widened to whole chunks: of a chunk that has changed in part, all is read from `now`. What lies beyond
    the end of `before` has changed. `changed` is the number of bytes in changes, `read_now` of those read from `now`.
    """

    def __init__(self, now: Reader, before: Reader, changes: Reader) -> None:
        self.size = now.size
        self.read_now = 0
        self._now, self._before = now, before
        self._ranges = _widened(changes, before.size, now.size)
        self._starts = [start for start, _ in self._ranges]
        self._lock = Lock()
        self.changed = sum(end - start for start, end in self._ranges)

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes."""
        parts = []
        for reader, start, end in self._pieces(offset, length):
            parts.append(reader.read(start, end - start))
            if reader is self._now:
                with self._lock:
                    self.read_now += end - start
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def extents(self, offset: int, length: int) -> list[Extent]:
        """The extents of both, each where it counts."""
        found: list[Extent] = []
        for reader, start, end in self._pieces(offset, length):
            found.extend(reader.extents(start, end - start))
        return found

    def close(self) -> None:
        """The readers are their owners'."""

    def _pieces(self, offset: int, length: int) -> Iterator[tuple[Reader, int, int]]:
        at, stop = offset, offset + length
        while at < stop:
            index = bisect_right(self._starts, at) - 1
            if index >= 0 and at < self._ranges[index][1]:
                end = min(self._ranges[index][1], stop)
                yield self._now, at, end
            else:
                following = self._starts[index + 1] if index + 1 < len(self._starts) else stop
                end = min(following, stop)
                yield self._before, at, end
            at = end


def _widened(changes: Reader, known: int, size: int) -> list[tuple[int, int]]:
    """Ranges of whole chunks, in order, that do not touch."""
    found = []
    for at in range(0, size, _WINDOW):
        found += [(e.start, e.end) for e in changes.extents(at, min(_WINDOW, size - at)) if not e.zero]
    if known < size:
        found.append((known, size))
    merged: list[tuple[int, int]] = []
    for first, last in sorted(found):
        start, end = first // CHUNK_SIZE * CHUNK_SIZE, min(-(-last // CHUNK_SIZE) * CHUNK_SIZE, size)
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
