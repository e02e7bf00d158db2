"""Chunks: fixed-size runs of a disk, the unit of deduplication and encryption."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from uuid import UUID

import zstandard

from darkroom import crypto, model
from darkroom.errors import DamagedError
from darkroom.model import CHUNK_SIZE, Buffer, Extent

RAW = 0
ZSTD = 1
ZSTD_LEVEL = 1
MAX_STORED_SIZE = 1 + CHUNK_SIZE + crypto.OVERHEAD
ZEROS = bytes(CHUNK_SIZE)
ZERO_DIGEST = crypto.digest(ZEROS)

_local = threading.local()  # a zstd (de)compressor serves one thread at a time


class ChunkInvalidError(DamagedError):
    """A stored chunk does not decode to the bytes that its digest names."""

    code = "chunk-invalid"
    what = "a stored chunk is not what was written"
    default_remedy = "run `darkroom check`; restore the pack from a copy, or import the image again"


@dataclass(frozen=True, slots=True)
class Scope:
    """Where chunks deduplicate: one per project for plain images, one per project and KEK for encrypted ones.

    `secret` keys the digests of an encrypted scope. Whoever only reads does not have it, nor need it.
    """

    id: UUID
    encrypted: bool
    secret: bytes = field(default=b"", repr=False)

    def digest(self, data: Buffer) -> bytes:
        """The secret digest `d` of a chunk: everything else about the chunk follows from it."""
        return crypto.keyed_digest(self.secret, data) if self.encrypted else crypto.digest(data)

    def chunk_id(self, secret_digest: bytes) -> bytes:
        """The name of the chunk in the index and in pack trailers."""
        return crypto.chunk_id(secret_digest) if self.encrypted else secret_digest

    def encode(self, secret_digest: bytes, data: Buffer) -> Buffer:
        """Return the stored form: a codec byte, then zstd or the bytes themselves, sealed in an encrypted scope."""
        packed = _compressor().compress(data)
        codec, payload = (ZSTD, packed) if len(packed) < len(data) else (RAW, data)
        if self.encrypted:
            return crypto.seal_chunk(self.id, secret_digest, codec, payload)
        return b"".join((bytes((codec,)), payload))

    def decode(self, secret_digest: bytes, stored: Buffer, length: int) -> bytes:
        """Return the `length` bytes of the chunk, verified; raises ChunkInvalidError or SealBrokenError.

        In an encrypted scope the seal proves the bytes; in a plain one the digest is computed again.
        """
        view = memoryview(stored)
        which = f"chunk {self.chunk_id(secret_digest).hex()[:16]}"
        if not view or view[0] not in (RAW, ZSTD):
            raise ChunkInvalidError(which, "a known codec", f"{view[0]}" if view else "no bytes")
        payload: Buffer = view[1:]
        if self.encrypted:
            payload = crypto.open_chunk(self.id, secret_digest, view[0], payload)
        data = _decompress(payload, length, which) if view[0] == ZSTD else bytes(payload)
        if len(data) != length:
            raise ChunkInvalidError(which, f"{length} bytes", f"{len(data)}")
        if not self.encrypted and crypto.digest(data) != secret_digest:
            raise ChunkInvalidError(which, "the digest in the manifest", "another")
        return data


def is_zero(data: Buffer) -> bool:
    """Whether all bytes are zero; stops at the first that is not."""
    return data == ZEROS[: len(data)] if len(data) < CHUNK_SIZE else data == ZEROS


def count(virtual_size: int) -> int:
    """The number of chunks of a disk, the last of which may be short."""
    return -(-virtual_size // CHUNK_SIZE)


def length_of(number: int, virtual_size: int) -> int:
    """The length in bytes of chunk `number`."""
    return min(CHUNK_SIZE, virtual_size - number * CHUNK_SIZE)


def extents(offset: int, length: int, is_there: Callable[[int], bool]) -> list[Extent]:
    """The extents of a range of a disk: data where there is a chunk of that number, zero elsewhere."""

    def pieces() -> Iterator[tuple[int, bool]]:
        at, end = offset, offset + length
        while at < end:
            number = at // CHUNK_SIZE
            stop = min((number + 1) * CHUNK_SIZE, end)
            yield stop - at, not is_there(number)
            at = stop

    return model.extents(offset, pieces())


def _compressor() -> zstandard.ZstdCompressor:
    if not hasattr(_local, "compressor"):
        _local.compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=False)
    compressor: zstandard.ZstdCompressor = _local.compressor
    return compressor


def _decompress(payload: Buffer, length: int, which: str) -> bytes:
    if not hasattr(_local, "decompressor"):
        _local.decompressor = zstandard.ZstdDecompressor(max_window_size=CHUNK_SIZE * 2)
    try:
        # The frame states its size; refuse to allocate more than a chunk for a forged one.
        if zstandard.frame_content_size(payload) != length:
            raise ChunkInvalidError(which, f"{length} bytes", "another size in the frame")
        data: bytes = _local.decompressor.decompress(payload)
    except zstandard.ZstdError:
        raise ChunkInvalidError(which, "a zstd frame", "damaged bytes") from None
    return data
