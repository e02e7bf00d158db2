"""The chunks of a host: each is fetched from the store once, whichever servers read it, and kept on disk for the next.

What is kept is what the store holds, byte for byte: compressed, and sealed if the image is encrypted. It is verified
each time it is read, by the digest in the manifest of whoever reads it; a damaged file is fetched again.
"""

import os
import threading
from collections import OrderedDict
from concurrent.futures import Future
from pathlib import Path
from uuid import UUID

from darkroom import packs
from darkroom.chunks import Scope
from darkroom.download import Locate
from darkroom.errors import DamagedError
from darkroom.manifest import ChunkRef
from darkroom.model import Buffer
from darkroom.store import Store

_DECODED = 128
"""Decoded chunks that stay in memory: 64 MiB."""
Key = tuple[UUID, bytes]


class ChunkCache:
    """A folder of encoded chunks, in all at most `limit` bytes; those that were not read for longest go first."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit
        self._lock = threading.Lock()
        self._sizes: OrderedDict[Path, int] = OrderedDict()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = [(entry.stat(), entry) for entry in folder.glob("*/*/*") if entry.is_file()]
        for status, path in sorted(found, key=lambda pair: pair[0].st_mtime):
            self._sizes[path] = status.st_size
        self._total = sum(self._sizes.values())

    def get(self, key: Key) -> bytes | None:
        """The bytes as they were put, unverified; None if they are not there."""
        path = self._path(key)
        with self._lock:
            if path not in self._sizes:
                return None
            self._sizes.move_to_end(path)
        try:
            os.utime(path)
            return path.read_bytes()
        except OSError:
            self.drop(key)  # somebody else removed it
            return None

    def put(self, key: Key, stored: Buffer) -> None:
        """Keep the bytes; a disk that is full, or a limit that is too small, is no error."""
        path, size = self._path(key), len(stored)
        part = path.with_suffix(f".{threading.get_ident()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            part.write_bytes(stored)
            part.rename(path)
        except OSError:
            part.unlink(missing_ok=True)
            return
        with self._lock:
            self._total += size - self._sizes.pop(path, 0)
            self._sizes[path] = size
            while self._total > self._limit and self._sizes:
                oldest, length = self._sizes.popitem(last=False)
                self._total -= length
                oldest.unlink(missing_ok=True)

    def drop(self, key: Key) -> None:
        """Forget one chunk."""
        path = self._path(key)
        with self._lock:
            self._total -= self._sizes.pop(path, 0)
            path.unlink(missing_ok=True)

    def _path(self, key: Key) -> Path:
        scope, identity = key
        name = identity.hex()
        return self._folder / str(scope) / name[:2] / name


class HostChunks:
    """Decoded chunks by their identity, for all disks of a host: memory, then the cache, then the store.

    Whoever asks for a chunk that somebody fetches already waits for that one. `gets` counts what the store was asked.
    """

    def __init__(self, store: Store, cache: ChunkCache) -> None:
        self._store, self._cache = store, cache
        self._lock = threading.Lock()
        self._decoded: OrderedDict[Key, Future[bytes]] = OrderedDict()
        self.gets = 0
        self.fetched = 0

    def chunk(self, scope: Scope, ref: ChunkRef, length: int, locate: Locate) -> bytes:
        """The `length` bytes of a chunk, verified; raises DamagedError or UnavailableError."""
        key = (scope.id, scope.chunk_id(ref.digest))
        with self._lock:
            future = self._decoded.get(key)
            mine = future is None
            if future is None:
                future = self._decoded[key] = Future()
            self._decoded.move_to_end(key)
            self._trim()
        if mine:
            try:
                future.set_result(self._load(key, scope, ref, length, locate))
            except BaseException as error:
                with self._lock:
                    if self._decoded.get(key) is future:
                        del self._decoded[key]
                future.set_exception(error)
        return future.result()

    def _trim(self) -> None:
        if len(self._decoded) > _DECODED:
            oldest = next((key for key, future in self._decoded.items() if future.done()), None)
            if oldest is not None:
                del self._decoded[oldest]

    def _load(self, key: Key, scope: Scope, ref: ChunkRef, length: int, locate: Locate) -> bytes:
        kept = self._cache.get(key)
        if kept is not None:
            try:
                return scope.decode(ref.digest, kept, length)
            except DamagedError:
                self._cache.drop(key)
        here = (ref.pack, ref.offset, ref.length)
        try:
            stored = self._fetch(scope, here)
            data = scope.decode(ref.digest, stored, length)
        except DamagedError:
            now = locate(key[1])  # a chunk that was moved is where the catalog says
            if now is None or now == here:
                raise
            stored = self._fetch(scope, now)
            data = scope.decode(ref.digest, stored, length)
        self._cache.put(key, stored)
        return data

    def _fetch(self, scope: Scope, place: tuple[UUID, int, int]) -> bytes:
        pack, offset, length = place
        stored = self._store.get(packs.object_key(scope.id, pack), offset, length)
        with self._lock:
            self.gets += 1
            self.fetched += length
        return stored
