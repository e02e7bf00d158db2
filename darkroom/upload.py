"""The pass: the guest-visible bytes of a disk into the store, deduplicated, compressed, sealed, resumable.

    reader ─▶ coders, a batch of chunks each: read, digest, ask the index, compress, seal
                  │ in order, a bounded number at once
                  ▼
           the run that is being filled ─▶ putters: pack row, object, then run record and index
                                               in order, a bounded number at once

A run is a range of chunks whose new chunks make up one pack. Once it is recorded, a later upload of the same image
goes on behind it. Runs are recorded in order, since a run may refer to chunks in the pack of an earlier one.
"""

import struct
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from uuid import UUID

from darkroom import buffers, chunks, crypto, manifest, packs
from darkroom.catalog import Catalog, uploads
from darkroom.manifest import ChunkRef
from darkroom.model import CHUNK_SIZE, Buffer, GiB, Reader
from darkroom.store import Store

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""

_BATCH = 16
_READ = 2
"""Chunks read at once: larger buffers cost more in page faults than they save in calls."""
_CODERS = 4
_PUTTERS = 3
_RECENT = 16384
_EXTENTS_WINDOW = 2 * GiB
_RECORD = struct.Struct("<II")


@dataclass(frozen=True, slots=True)
class Target:
    """Where a disk goes: the systems, the image and disk number, the scope (and its row), the data key."""

    catalog: Catalog
    store: Store
    image: UUID
    disk: int
    scope: chunks.Scope
    scope_row: int
    data_key: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """One chunk that is not zero: found at `place` in the store, or encoded in `stored`."""

    number: int
    identity: bytes
    digest: bytes
    plain_digest: bytes
    place: uploads.Place | None
    stored: Buffer


@dataclass(slots=True)
class _Run:
    first_chunk: int
    pack: packs.Pack
    refs: list[ChunkRef] = field(default_factory=list)
    plain_digests: list[bytes] = field(default_factory=list)


def upload(reader: Reader, target: Target, progress: Progress) -> None:
    """Bring all chunks of `reader` into the store, going on behind the runs that are recorded already.

    Holds at most a few packs in memory. Raises what the reader, the store or the catalog raise; what was recorded
    stays, and the next call goes on there. Raises QuotaError before any byte moves.
    """
    buffers.reuse()
    runs = uploads.finished_runs(target.catalog, target.image, target.disk)
    wanted = _allocation(reader)
    total = wanted.count(1)
    for run in runs:
        wanted[run.first_chunk : run.first_chunk + run.chunk_count] = bytes(run.chunk_count)
    done = total - wanted.count(1)
    uploads.begin(target.catalog, target.image, (total - done) * packs.MAX_STORED)
    with ThreadPoolExecutor(_CODERS, "coder") as coders, ThreadPoolExecutor(_PUTTERS, "putter") as putters:
        writer = _Writer(target, putters)
        try:
            for first, last in _gaps(runs, len(wanted)):
                writer.begin(first)
                for batch, end, encoded in _encoded(reader, target, coders, wanted, first, last):
                    writer.add(encoded, end)
                    done += batch
                    progress(done * CHUNK_SIZE, total * CHUNK_SIZE)
                writer.flush(last)
            writer.finish()
        except BaseException:
            coders.shutdown(wait=False, cancel_futures=True)
            putters.shutdown(wait=False, cancel_futures=True)
            raise


def _allocation(reader: Reader) -> bytearray:
    """One byte a chunk: 1 where any of it may be data."""
    wanted = bytearray(chunks.count(reader.size))
    for offset in range(0, reader.size, _EXTENTS_WINDOW):
        for extent in reader.extents(offset, min(_EXTENTS_WINDOW, reader.size - offset)):
            if not extent.zero:
                first, last = extent.start // CHUNK_SIZE, chunks.count(extent.end)
                wanted[first:last] = b"\1" * (last - first)
    return wanted


def _gaps(runs: list[uploads.Run], count: int) -> Iterator[tuple[int, int]]:
    """The ranges of chunks that no run covers."""
    at = 0
    for run in runs:
        if run.first_chunk > at:
            yield at, run.first_chunk
        at = run.first_chunk + run.chunk_count
    if at < count:
        yield at, count


def _encoded(
    reader: Reader, target: Target, coders: ThreadPoolExecutor, wanted: bytearray, first: int, last: int
) -> Iterator[tuple[int, int, list[_Chunk]]]:
    """Yield, in order, for each batch: the number of chunks read, where it ends, and what is not zero of it."""
    window: deque[tuple[int, int, Future[list[_Chunk]]]] = deque()
    for numbers in _batches(wanted, first, last):
        window.append((len(numbers), numbers[-1] + 1, coders.submit(_encode, reader, target, numbers)))
        if len(window) > _CODERS:
            count, end, future = window.popleft()
            yield count, end, future.result()
    for count, end, future in window:
        yield count, end, future.result()


def _batches(wanted: bytearray, first: int, last: int) -> Iterator[list[int]]:
    numbers: list[int] = []
    at = wanted.find(1, first, last)
    while at >= 0:
        numbers.append(at)
        if len(numbers) == _BATCH:
            yield numbers
            numbers = []
        at = wanted.find(1, at + 1, last)
    if numbers:
        yield numbers


def _encode(reader: Reader, target: Target, numbers: list[int]) -> list[_Chunk]:
    """Read a batch, drop zero chunks, ask the index once, encode what it does not have."""
    scope, data, found = target.scope, {}, []
    for number, view in _read(reader, numbers):
        plain = crypto.digest(view)
        if plain == _zero_digest(len(view)):
            continue
        secret = scope.digest(view) if scope.encrypted else plain
        data[number] = view
        found.append((number, scope.chunk_id(secret), secret, plain))
    identities = [identity for _, identity, _, _ in found]
    places = uploads.find_chunks(target.catalog, target.image, target.scope_row, identities) if found else {}
    return [
        _Chunk(number, identity, secret, plain, place, b"" if place else scope.encode(secret, data[number]))
        for number, identity, secret, plain in found
        for place in (places.get(identity),)
    ]


def _read(reader: Reader, numbers: list[int]) -> Iterator[tuple[int, memoryview]]:
    """Read chunks, those that lie next to each other at once."""
    start = 0
    for index in range(1, len(numbers) + 1):
        if index < len(numbers) and numbers[index] == numbers[index - 1] + 1 and index - start < _READ:
            continue
        offset = numbers[start] * CHUNK_SIZE
        end = min((numbers[index - 1] + 1) * CHUNK_SIZE, reader.size)
        view = memoryview(reader.read(offset, end - offset))
        for number in numbers[start:index]:
            at = number * CHUNK_SIZE - offset
            yield number, view[at : at + CHUNK_SIZE]
        start = index


def _zero_digest(length: int) -> bytes:
    return chunks.ZERO_DIGEST if length == CHUNK_SIZE else crypto.digest(bytes(length))


class _Writer:
    """Fills runs in order and hands them to the putters."""

    def __init__(self, target: Target, putters: ThreadPoolExecutor) -> None:
        self.target = target
        self.putters = putters
        self.puts: deque[Future[None]] = deque()
        # Chunks of this upload that the index may not have yet.
        self.recent: OrderedDict[bytes, uploads.Place] = OrderedDict()
        self.begin(0)

    def begin(self, first_chunk: int) -> None:
        self.run = _Run(first_chunk, packs.Pack(self.target.scope.id))

    def add(self, encoded: list[_Chunk], end: int) -> None:
        for chunk in encoded:
            place = chunk.place or self.recent.get(chunk.identity) or self._place(chunk)
            ref = ChunkRef(chunk.number, place.pack, place.position, place.length, chunk.digest)
            self.run.refs.append(ref)
            self.run.plain_digests.append(chunk.plain_digest)
        if self.run.pack.size >= packs.TARGET_SIZE or len(self.run.refs) >= packs.MAX_CHUNKS - _BATCH:
            self.flush(end)
            self.begin(end)

    def _place(self, chunk: _Chunk) -> uploads.Place:
        place = uploads.Place(self.run.pack.id, *self.run.pack.add(chunk.identity, chunk.stored))
        self.recent[chunk.identity] = place
        if len(self.recent) > _RECENT:
            self.recent.popitem(last=False)
        return place

    def flush(self, end: int) -> None:
        """Hand the run, which ends before chunk `end`, to the putters; waits while they have enough to do."""
        if end == self.run.first_chunk:
            return
        while len(self.puts) >= _PUTTERS:
            self.puts.popleft().result()
        previous = self.puts[-1] if self.puts else None
        self.puts.append(self.putters.submit(_put, self.target, self.run, end, previous))

    def finish(self) -> None:
        for put in self.puts:
            put.result()


def _put(target: Target, run: _Run, end: int, previous: Future[None] | None) -> None:
    """Row, object, then run record and index; after the run before it."""
    pack = run.pack if run.pack.entries else None
    if pack:
        uploads.begin_pack(target.catalog, target.image, target.scope_row, pack.id)
        parts = pack.encode()
        target.store.put(packs.object_key(target.scope.id, pack.id), parts, sum(map(len, parts)))
    if previous:
        previous.result()
    finished = uploads.Run(target.disk, run.first_chunk, end - run.first_chunk, pack.size if pack else 0)
    uploads.finish_run(target.catalog, target.image, finished, _encode_record(target, run), pack)


def _encode_record(target: Target, run: _Run) -> bytes:
    numbers: dict[UUID, int] = {}
    for ref in run.refs:
        numbers.setdefault(ref.pack, len(numbers))
    data = _RECORD.pack(len(run.refs), len(numbers)) + b"".join(pack.bytes for pack in numbers)
    data += manifest.encode_refs(run.refs, numbers, run.first_chunk)
    if not target.scope.encrypted:
        return data
    data += b"".join(run.plain_digests)
    return crypto.seal_run(target.data_key, target.image, target.disk, run.first_chunk, data)


def recorded(target: Target) -> Iterator[tuple[ChunkRef, bytes]]:
    """Yield, in order, the reference and the plain digest of each chunk that finished runs hold."""
    encrypted = target.scope.encrypted
    for first, record in uploads.run_records(target.catalog, target.image, target.disk):
        if encrypted:
            record = crypto.open_run(target.data_key, target.image, target.disk, first, record)
        count, pack_count = _RECORD.unpack_from(record)
        refs_at = _RECORD.size + 16 * pack_count
        ids = [UUID(bytes=record[at : at + 16]) for at in range(_RECORD.size, refs_at, 16)]
        digests_at = len(record) - crypto.DIGEST_SIZE * count if encrypted else len(record)
        refs = manifest.decode_refs(record[refs_at:digests_at], ids, first)
        for index, ref in enumerate(refs):
            at = digests_at + crypto.DIGEST_SIZE * index
            yield ref, record[at : at + crypto.DIGEST_SIZE] if encrypted else ref.digest
