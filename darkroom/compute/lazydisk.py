"""A disk of an image as a server reads it while it has not all of it: through the chunks of the host.

A store that is away for a while makes a reader wait, not fail: a guest takes a slow disk, but not a broken one.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from darkroom import chunks, manifest
from darkroom.compute.chunkcache import HostChunks
from darkroom.download import Locate
from darkroom.errors import UnavailableError
from darkroom.manifest import PAGE_CHUNKS, ChunkRef, Manifest
from darkroom.model import CHUNK_SIZE, Extent
from darkroom.store import Store

T = TypeVar("T")
_STREAMS = 16
_AHEAD = 16
"""Chunks that a sequential reader, such as the background copy, gets fetched ahead."""
_SEQUENTIAL = 32
"""Chunks in a row after which a reader is one: a boot reads here and there, and a kernel of some MiB in a row."""
_PAGES = 16
"""Of the manifest, 1 MiB each, that stay in memory."""
_PATIENCE = 90.0
_PAUSES = (0.1, 0.5, 1.0, 2.0)


class ClosedError(UnavailableError):
    """The disk was closed while somebody waited for the store."""

    code = "disk-closed"
    what = "the disk is not served any more"


class LazyDisk:
    """A Reader of the guest-visible bytes; safe to use from many threads.

    `last_new` is when something was read that had not been read before, in monotonic time; `furthest` the end of what
    was read.
    """

    def __init__(self, store: Store, table: Manifest, data_key: bytes, host: HostChunks, locate: Locate) -> None:
        self.size = table.virtual_size
        self.last_new = 0.0
        self._store, self._table, self._data_key = store, table, data_key
        self._host, self._locate = host, locate
        self._pages: dict[int, dict[int, ChunkRef]] = {}
        self._closed = threading.Event()
        self._pool = ThreadPoolExecutor(_STREAMS, "prefetch")
        self.furthest = 0
        self._seen = bytearray(chunks.count(self.size))
        self._next = 0
        self._began = self._ahead = 0

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes; waits for a store that is away. Raises DamagedError or UnavailableError."""
        first, last = offset // CHUNK_SIZE, (offset + length - 1) // CHUNK_SIZE
        if not all(self._seen[first : last + 1]):
            self._seen[first : last + 1] = b"\1" * (last + 1 - first)
            self.last_new = time.monotonic()
        self.furthest = max(self.furthest, offset + length)
        self._read_ahead(first, last)
        parts = []
        for number in range(first, last + 1):
            data = self._patiently(self._chunk, number)
            base = number * CHUNK_SIZE
            start, stop = max(offset - base, 0), min(offset + length - base, CHUNK_SIZE)
            parts.append(data if (start, stop) == (0, len(data)) else memoryview(data)[start:stop])
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)

    def extents(self, offset: int, length: int) -> list[Extent]:
        """Data where there is a chunk, zero elsewhere."""
        page = partial(self._patiently, self._page)
        return chunks.extents(offset, length, lambda number: number in page(number // PAGE_CHUNKS))

    def prefetch(self, numbers: Sequence[int]) -> list[Future[bytes]]:
        """Fetch chunks in the background, in this order, by many streams; errors are left to who reads them."""
        last = chunks.count(self.size)
        return [self._pool.submit(self._chunk, number) for number in numbers if 0 <= number < last]

    def close(self) -> None:
        """Stop fetching; whoever waits for the store gets a ClosedError."""
        self._closed.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _read_ahead(self, first: int, last: int) -> None:
        if first not in (self._next, self._next - 1):
            self._began = self._ahead = first
        self._next = last + 1
        length = last + 1 - self._began
        if length < _SEQUENTIAL:
            return
        wanted = range(max(self._ahead, last + 1), min(last + 1 + min(length, _AHEAD), chunks.count(self.size)))
        if wanted and not self._closed.is_set():
            self._ahead = wanted.stop
            self.prefetch(wanted)

    def _chunk(self, number: int) -> bytes:
        ref = self._page(number // PAGE_CHUNKS).get(number)
        length = chunks.length_of(number, self.size)
        if ref is None:
            return chunks.ZEROS[:length] if length < CHUNK_SIZE else chunks.ZEROS
        return self._host.chunk(self._table.scope, ref, length, self._locate)

    def _page(self, number: int) -> dict[int, ChunkRef]:
        page = self._pages.get(number)
        if page is None:
            refs = manifest.read_page(self._store, self._table, number, self._data_key)
            page = self._pages[number] = {ref.number: ref for ref in refs}
            if len(self._pages) > _PAGES:
                self._pages.pop(next(iter(self._pages)), None)
        return page

    def _patiently(self, work: Callable[[int], T], number: int) -> T:
        deadline = time.monotonic() + _PATIENCE
        for attempt in range(10**6):
            try:
                return work(number)
            except UnavailableError as error:
                pause = _PAUSES[min(attempt, len(_PAUSES) - 1)]
                if not error.retryable or time.monotonic() + pause > deadline:
                    raise
                if self._closed.wait(pause):
                    raise ClosedError(str(self._table.image)) from error
        raise AssertionError
