"""A zstd frame decoded with bounded output (RFC 8878).

The library decodes whatever input it gets in one go, and four bytes of it can make 128 KiB. So it gets one block at
a time, whose lengths are read here: a block never makes more than 128 KiB.
"""

from collections.abc import Generator

import zstandard

_MAGIC = 0xFD2FB528
_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
_SKIP = 64 * 1024
_RLE = 1


class Frame:
    """One frame, zstd's or skippable, with the interface of bz2's and lzma's decoders."""

    def __init__(self, window: int) -> None:
        self._decoder = zstandard.ZstdDecompressor(max_window_size=window).decompressobj()
        self._held = bytearray()
        self._parts = _parts()
        self._wanted = next(self._parts)
        self._skippable: bool | None = None
        self.eof = False
        self.needs_input = True

    @property
    def unused_data(self) -> bytes:
        """What follows the frame."""
        return bytes(self._held) if self.eof else b""

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Take in `data`, return `max_length` bytes or a block more; raises zstandard.ZstdError."""
        self._held += data
        pieces, size = [], 0
        while not self.eof and size < max_length and len(self._held) >= self._wanted:
            part = bytes(self._held[: self._wanted])
            del self._held[: self._wanted]
            pieces.append(self._decode(part))
            size += len(pieces[-1])
            try:
                self._wanted = self._parts.send(part)
            except StopIteration:
                self.eof = True
        self.needs_input = len(self._held) < self._wanted
        return b"".join(pieces)

    def _decode(self, part: bytes) -> bytes:
        if self._skippable is None:
            magic = int.from_bytes(part, "little")
            self._skippable = magic in _SKIPPABLE
            if not self._skippable and magic != _MAGIC:
                raise zstandard.ZstdError(f"no frame begins with {part.hex()}")
        return b"" if self._skippable or not part else self._decoder.decompress(part)


def _parts() -> Generator[int, bytes, None]:
    """Ask for the parts of a frame by their lengths, and learn from what is sent how it goes on."""
    if int.from_bytes((yield 4), "little") in _SKIPPABLE:
        left = int.from_bytes((yield 4), "little")
        while left:
            left -= len((yield min(left, _SKIP)))
        return
    (descriptor,) = yield 1
    single = descriptor >> 5 & 1
    yield (1 - single) + (0, 1, 2, 4)[descriptor & 3] + (single, 2, 4, 8)[descriptor >> 6]
    last = 0
    while not last:
        header = int.from_bytes((yield 3), "little")
        last = header & 1
        yield 1 if header >> 1 & 3 == _RLE else header >> 3
    yield 4 * (descriptor >> 2 & 1)
