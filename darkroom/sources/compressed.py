"""Compressed files: gz, xz, zst and bz2, decompressed as a stream into the spool."""

import bz2
import lzma
import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import zstandard

from darkroom.errors import RefusedError
from darkroom.model import KiB, MiB
from darkroom.rawdisk import RawDisk
from darkroom.settings import Settings
from darkroom.sources import Progress, Source, hint_of, spool
from darkroom.sources.zstd import Frame

_MAGICS = (
    ("gz", re.compile(rb"\x1f\x8b\x08")),
    ("xz", re.compile(rb"\xfd7zXZ\0")),
    ("zst", re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", re.DOTALL)),
    ("bz2", re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)")),
    ("zip", re.compile(rb"PK(\x03\x04|\x05\x06|\x07\x08)")),
    ("7z", re.compile(rb"7z\xbc\xaf\x27\x1c")),
    ("rar", re.compile(rb"Rar!\x1a\x07")),
)
_INPUT = 256 * KiB
_OUTPUT = 4 * MiB
_MEMORY = 160 * MiB
"""What a decoder may use; `xz -9` takes 65 MiB, `zstd --ultra -22` and `--long=27` 128 MiB."""
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


class _Decoder(Protocol):
    """The interface of bz2's and lzma's decoders: bounded output, kept input, and the end of a member."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Gzip:
    """One gzip member; zlib leaves over the input that a bounded call did not need."""

    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def needs_input(self) -> bool:
        return not self._decoder.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        return self._decoder.decompress(self._decoder.unconsumed_tail + data, max_length)


_DECODERS: dict[str, Callable[[], _Decoder]] = {
    "gz": _Gzip,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY),
    "bz2": bz2.BZ2Decompressor,
    "zst": lambda: Frame(128 * MiB),
}


def compression_of(source: Source) -> str:
    """gz, xz, zst, bz2 or an empty string, by the first bytes; raises CompressionRefusedError for zip, 7z and rar."""
    head = source.reader.read(0, min(16, source.reader.size))
    kind = next((name for name, magic in _MAGICS if magic.match(head)), "")
    if kind and kind not in _DECODERS:
        raise CompressionRefusedError(source.name, ", ".join(_DECODERS), kind)
    return kind


@contextmanager
def opened(source: Source, settings: Settings, folder: Path, progress: Progress) -> Iterator[Source]:
    """The source itself, or what it decompresses to as a local file in the spool."""
    kind = compression_of(source)
    stem, _, suffix = source.name.rpartition(".")
    named = suffix.lower() in _DECODERS
    if named and suffix.lower() != kind:
        raise CompressedDamagedError(source.name, suffix.lower(), kind or "no compression")
    if not kind:
        yield source
        return
    path = spool.path_of(folder, "disk", source.identity)
    limits = settings.limits
    spool.file_of(path, source.name, lambda: _pieces(source, kind, limits.expansion, progress), limits.virtual_size)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        name = stem if named else source.name
        inner = replace(source, name=name, reader=RawDisk(fd, name), fd=fd, fd_range=None, hint=hint_of(name))
        found = compression_of(inner)
        if found:
            raise CompressionRefusedError(source.name, "one compression", f"{found} inside")
        yield inner
    finally:
        os.close(fd)


def _pieces(source: Source, kind: str, expansion: int, progress: Progress) -> Iterator[bytes]:
    size, most = 0, max(_FREE_SIZE, source.reader.size * expansion)
    for consumed, piece in _decompressed(source, kind):
        size += len(piece)
        if size > most:
            raise spool.ExpansionError(source.name, f"at most {expansion} times its size", "more")
        progress(consumed, source.reader.size)
        yield piece


def _decompressed(source: Source, kind: str) -> Iterator[tuple[int, bytes]]:
    """Yield bytes consumed and a piece of at most a few MiB; members may follow each other, nothing else may."""
    reader, offset, data = source.reader, 0, b""
    decoder: _Decoder | None = None
    while True:
        if not data and (decoder is None or decoder.needs_input):
            if offset == reader.size:
                break
            data = reader.read(offset, min(_INPUT, reader.size - offset))
            offset += len(data)
        if decoder is None:
            # Zeros may pad a stream (the .xz file format §2.2).
            data = data.lstrip(b"\0") if kind == "xz" else data
            if not data:
                continue
            decoder = _DECODERS[kind]()
        try:
            piece = decoder.decompress(data, _OUTPUT)
        except (zlib.error, lzma.LZMAError, OSError, ValueError, zstandard.ZstdError) as error:
            raise _refusal(source, kind, error) from None
        data = b""
        yield offset, piece
        if decoder.eof:
            data, decoder = decoder.unused_data, None
    if decoder is not None:
        raise CompressedDamagedError(source.name, f"a whole {kind} file", "one cut short")


def _refusal(source: Source, kind: str, error: Exception) -> RefusedError:
    if "memory" in str(error).lower():
        return CompressionRefusedError(source.name, f"a window of at most {_MEMORY // MiB} MiB", "a larger one")
    return CompressedDamagedError(source.name, f"a whole {kind} file", str(error))
