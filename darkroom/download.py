"""An image in the store as a Reader: chunks are fetched by ranged get, verified, decoded, kept for a while.

Every byte that comes out was verified on the way: the table against the catalog's digest, pages against the
table, chunks by their seal or digest. A damaged object raises a DamagedError; wrong bytes never come out.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from uuid import UUID

from darkroom import buffers, chunks, manifest, packs
from darkroom.errors import DamagedError
from darkroom.manifest import PAGE_CHUNKS, ChunkRef, Manifest
from darkroom.model import CHUNK_SIZE, Extent, MiB
from darkroom.store import ObjectMissingError, Store

Locate = Callable[[bytes], tuple[UUID, int, int] | None]
"""Where a chunk id is stored now, by the catalog: pack, offset, length."""

_CACHE_CHUNKS = 192
_CACHE_PAGES = 64
_GET_SIZE = 1 * MiB
_AHEAD = 48
_THREADS = 8


class DiskReader:
    """The guest-visible bytes of one disk of an image; safe to use from many threads."""

    def __init__(self, store: Store, image_manifest: Manifest, data_key: bytes, locate: Locate | None = None) -> None:
        self.size = image_manifest.virtual_size
        self._store = store
        self._manifest = image_manifest
        self._data_key = data_key
        self._locate = locate
        self._lock = threading.Lock()
        self._pages: OrderedDict[int, dict[int, ChunkRef]] = OrderedDict()
        self._chunks: OrderedDict[int, Future[bytes]] = OrderedDict()
        self._last = -1
        self._gone: dict[UUID, DamagedError] = {}  # packs that were compacted: not worth asking for again
        self._pool = ThreadPoolExecutor(_THREADS, "fetch")
        buffers.reuse()

    def close(self) -> None:
        """Stop fetching."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def extents(self, offset: int, length: int) -> list[Extent]:
        """Data where there is a chunk, zero elsewhere; reads manifest pages and no chunk."""
        return chunks.extents(offset, length, lambda number: number in self._page(number // PAGE_CHUNKS))

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes; raises DamagedError or UnavailableError."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise ValueError(f"{offset}+{length} is outside of {self.size} bytes")
        if not length:
            return b""
        first, last = offset // CHUNK_SIZE, (offset + length - 1) // CHUNK_SIZE
        futures = self._fetch(range(first, last + 1))
        parts = []
        for number, future in zip(range(first, last + 1), futures, strict=True):
            base = number * CHUNK_SIZE
            start, stop = max(offset - base, 0), min(offset + length - base, CHUNK_SIZE)
            data = future.result() if future else chunks.ZEROS
            parts.append(data if (start, stop) == (0, len(data)) else memoryview(data)[start:stop])
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)

    @property
    def pages(self) -> int:
        """The number of pages of the manifest."""
        return len(self._manifest.pages)

    def fetch(self, ref: ChunkRef) -> bytes:
        """Get and verify one chunk, beside the cache; raises DamagedError or UnavailableError."""
        try:
            stored = self._stored(ref.pack, ref.offset, ref.length)
        except DamagedError as error:
            return self._moved(ref, error)
        return self._decode(ref, stored)

    def refs(self, page: int) -> list[ChunkRef]:
        """The chunk references of a page in order."""
        return list(self._page(page).values())

    def _page(self, number: int) -> dict[int, ChunkRef]:
        with self._lock:
            page = self._pages.get(number)
            if page is not None:
                return page
        refs = manifest.read_page(self._store, self._manifest, number, self._data_key)
        with self._lock:
            page = self._pages[number] = {ref.number: ref for ref in refs}
            if len(self._pages) > _CACHE_PAGES:
                self._pages.popitem(last=False)
            return page

    def _fetch(self, numbers: range) -> list[Future[bytes] | None]:
        """A future per chunk, None for zeros; a sequential reader gets the next chunks fetched as well."""
        # Clients such as qemu-img keep several requests in flight, which arrive almost in order.
        sequential = abs(numbers.start - self._last) <= _AHEAD
        self._last = numbers.stop - 1
        ahead = numbers.stop + _AHEAD if sequential else numbers.stop
        wanted = range(numbers.start, min(ahead, chunks.count(self.size)))
        refs = [self._page(number // PAGE_CHUNKS).get(number) for number in wanted]
        with self._lock:
            missing = [ref for ref in refs if ref and not self._is_cached(ref.number)]
            for group in _adjacent(missing):
                self._submit(group)
            futures = [self._chunks[ref.number] if ref else None for ref in refs[: len(numbers)]]
            while len(self._chunks) > _CACHE_CHUNKS:
                self._chunks.popitem(last=False)
        return futures

    def _is_cached(self, number: int) -> bool:
        future = self._chunks.get(number)
        if future is None or (future.done() and future.exception()):
            return False
        self._chunks.move_to_end(number)
        return True

    def _submit(self, group: Sequence[ChunkRef]) -> None:
        """Get neighbours in a pack by one request."""
        futures: list[Future[bytes]] = [Future() for _ in group]
        for ref, future in zip(group, futures, strict=True):
            self._chunks[ref.number] = future
        self._pool.submit(self._get, group, futures)

    def _get(self, group: Sequence[ChunkRef], futures: Sequence[Future[bytes]]) -> None:
        base = group[0].offset
        try:
            stored = self._stored(group[0].pack, base, group[-1].offset + group[-1].length - base)
        except BaseException as error:
            for ref, future in zip(group, futures, strict=True):
                self._settle(future, self._moved, ref, error)
            return
        for ref, future in zip(group, futures, strict=True):
            part = stored[ref.offset - base : ref.offset - base + ref.length]
            self._settle(future, self._decode, ref, part)

    def _stored(self, pack: UUID, offset: int, length: int) -> memoryview:
        """Bytes of a pack."""
        if pack in self._gone:
            raise self._gone[pack]
        try:
            return memoryview(self._store.get(packs.object_key(self._manifest.scope.id, pack), offset, length))
        except ObjectMissingError as error:
            self._gone[pack] = error
            raise

    @staticmethod
    def _settle(future: "Future[bytes]", work: Callable[..., bytes], *arguments: object) -> None:
        try:
            future.set_result(work(*arguments))
        except BaseException as error:
            future.set_exception(error)

    def _decode(self, ref: ChunkRef, stored: memoryview) -> bytes:
        length = chunks.length_of(ref.number, self.size)
        try:
            return self._manifest.scope.decode(ref.digest, stored, length)
        except DamagedError as error:
            return self._moved(ref, error)

    def place(self, ref: ChunkRef) -> tuple[UUID, int, int] | None:
        """Where the catalog has a chunk now, among the packs that the image refers to: pack, offset, length."""
        return self._locate(self._manifest.scope.chunk_id(ref.digest)) if self._locate else None

    def _moved(self, ref: ChunkRef, error: BaseException) -> bytes:
        """Look for a chunk where the catalog has it now, if that is elsewhere; else it is damaged indeed."""
        place = self.place(ref) if isinstance(error, DamagedError) else None
        if place is None or place == (ref.pack, ref.offset, ref.length):
            raise error
        stored = self._stored(*place)
        return self._manifest.scope.decode(ref.digest, stored, chunks.length_of(ref.number, self.size))


def _adjacent(refs: Sequence[ChunkRef]) -> list[list[ChunkRef]]:
    """Group references that lie one after the other in a pack, up to a request's size."""
    groups: list[list[ChunkRef]] = []
    for ref in refs:
        last = groups[-1] if groups else []
        if (
            last
            and last[-1].pack == ref.pack
            and last[-1].offset + last[-1].length == ref.offset
            and ref.offset + ref.length - last[0].offset <= _GET_SIZE
        ):
            last.append(ref)
        else:
            groups.append([ref])
    return groups
