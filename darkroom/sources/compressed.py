"""Compressed files: gz, xz, zst and bz2, decompressed as a stream into the spool."""

import bz2
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import zstandard

from darkroom.errors import RefusedError
from darkroom.model import MiB, Reader
from darkroom.rawdisk import RawDisk
from darkroom.settings import Settings
from darkroom.sources import Progress, Source, hint_of, spool

_MAGICS = {b"\x1f\x8b": "gz", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zst", b"BZh": "bz2"}
_ARCHIVES = {b"PK\x03\x04": "zip", b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!\x1a\x07": "rar"}
_INPUT = 256 * 1024
_OUTPUT = 4 * MiB
_MEMORY = 256 * MiB
_FREE_SIZE = 64 * MiB
"""Below this size the ratio of expansion does not matter."""


class CompressedDamagedError(RefusedError):
    """A compressed file that is cut short, damaged, or followed by something else."""

    code = "compressed-damaged"
    what = "the compressed file is damaged or not whole"
    default_remedy = "download it again"


class CompressionRefusedError(RefusedError):
    """An archive or a compression that is not read."""

    code = "compression-refused"
    what = "this archive or compression is not read"
    default_remedy = "unpack it, then import the disk image in it"


def compression_of(reader: Reader) -> str:
    """gz, xz, zst, bz2 or an empty string, by the first bytes; raises CompressionRefusedError for zip, 7z and rar."""
    head = reader.read(0, min(16, reader.size))
    for magic, name in _ARCHIVES.items():
        if head.startswith(magic):
            raise CompressionRefusedError(name, "gz, xz, zst or bz2", name)
    return next((name for magic, name in _MAGICS.items() if head.startswith(magic)), "")


@contextmanager
def opened(source: Source, settings: Settings, folder: Path, progress: Progress) -> Iterator[Source]:
    """The source itself, or what it decompresses to as a local file in the spool."""
    kind = compression_of(source.reader)
    suffix = source.name.rpartition(".")[2].lower()
    if suffix in _MAGICS.values() and suffix != kind:
        raise CompressedDamagedError(source.name, suffix, kind or "no compression")
    if not kind:
        yield source
        return
    limits = settings.limits

    def pieces() -> Iterator[bytes]:
        size = 0
        for consumed, piece in _decompress(source, kind):
            size += len(piece)
            if size > max(_FREE_SIZE, source.reader.size * limits.expansion):
                raise spool.ExpansionError(source.name, f"at most {limits.expansion} times its size", "more")
            progress(consumed, source.reader.size)
            yield piece

    path = spool.file_of(folder, "disk", source.identity, pieces, limits.virtual_size)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        inner = source.name.rpartition(".")[0] if suffix in _MAGICS.values() else source.name
        reader = RawDisk(fd, inner)
        if compression_of(reader):
            raise CompressionRefusedError(source.name, "one compression", "another inside")
        yield replace(source, name=inner, reader=reader, fd=fd, fd_range=None, hint=hint_of(inner))
    finally:
        os.close(fd)


def _decompress(source: Source, kind: str) -> Iterator[tuple[int, bytes]]:
    """Yield bytes consumed and a piece of at most a few MiB; members may follow each other, nothing else may."""
    new = _DECODERS[kind]
    decoder: Any = None
    reader, offset, data = source.reader, 0, b""
    while offset < reader.size or data:
        if not data:
            data = reader.read(offset, min(_INPUT, reader.size - offset))
            offset += len(data)
        try:
            decoder = decoder or new()
            piece = decoder.decompress(data, _OUTPUT)
        except (zlib.error, lzma.LZMAError, OSError, zstandard.ZstdError, EOFError, MemoryError) as error:
            raise CompressedDamagedError(source.name, f"a whole {kind} file", str(error)) from None
        yield offset, piece
        data = b""
        if decoder.eof:
            # xz allows zero padding between and after members (xz format specification §2.2).
            data, decoder = decoder.unused_data, None
            data = data.lstrip(b"\0") if kind == "xz" else data
        elif not decoder.needs_input:
            data = _drain(decoder)
    if decoder is not None:
        raise CompressedDamagedError(source.name, f"a whole {kind} file", "one cut short")


def _drain(decoder: Any) -> bytes:
    """Input that a bounded call left over, to be given again."""
    rest: bytes = decoder.rest()
    return rest


class _Bounded:
    """One interface over decoders: bounded output, the input that is left, the end of a member."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        self._rest = b""

    @property
    def eof(self) -> bool:
        return bool(self._decoder.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._decoder.unused_data)

    @property
    def needs_input(self) -> bool:
        return not self._rest

    def rest(self) -> bytes:
        rest, self._rest = self._rest, b""
        return rest


class _Gzip(_Bounded):
    def __init__(self) -> None:
        super().__init__(zlib.decompressobj(wbits=31))

    def decompress(self, data: bytes, limit: int) -> bytes:
        piece: bytes = self._decoder.decompress(data, limit)
        self._rest = self._decoder.unconsumed_tail
        return piece


class _Standard(_Bounded):
    """bz2 and lzma keep their input themselves: an empty call goes on with it."""

    def decompress(self, data: bytes, limit: int) -> bytes:
        piece: bytes = self._decoder.decompress(data, limit)
        return piece


def _zstd() -> Any:
    return _Zstd(zstandard.ZstdDecompressor(max_window_size=128 * MiB).decompressobj())


class _Zstd(_Bounded):
    """zstd expands a block of at most 128 KiB at a time; the input is given in small parts to bound the output."""

    _PART = 4096

    def decompress(self, data: bytes, limit: int) -> bytes:
        pieces, size, at = [], 0, 0
        while at < len(data) and size < limit and not self._decoder.eof:
            piece = self._decoder.decompress(data[at : at + self._PART])
            pieces.append(piece)
            size, at = size + len(piece), at + self._PART
        self._tail = data[at:] if self._decoder.eof else b""
        self._rest = b"" if self._decoder.eof else data[at:]
        return b"".join(pieces)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._decoder.unused_data) + self._tail


_DECODERS: dict[str, Callable[[], Any]] = {
    "gz": _Gzip,
    "xz": lambda: _Standard(lzma.LZMADecompressor(memlimit=_MEMORY)),
    "bz2": lambda: _Standard(bz2.BZ2Decompressor()),
    "zst": _zstd,
}
