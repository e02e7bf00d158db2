"""Packs: objects of about 32 MiB that hold encoded chunks back to back and a trailer that lists them.

    encoded chunks                     as `chunks.Scope.encode` returns them
    trailer     per chunk, 40 bytes    chunk id (32), offset (u32), length (u32)
    footer      88 bytes               scope (16), pack (16), count (u32), reserved (u32, 0),
                                       BLAKE3 of trailer and the footer so far (32), magic (16)

Integers are little-endian. The trailer is what the chunk index of the catalog can be rebuilt from.
"""

import struct
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from darkroom import crypto
from darkroom.errors import DamagedError
from darkroom.model import CHUNK_SIZE, Buffer, MiB
from darkroom.store import Store

TARGET_SIZE = 32 * MiB
MAX_CHUNKS = 4096
MAX_STORED = CHUNK_SIZE + 256
"""The most bytes that a chunk takes in a pack: its encoding, its part of the trailer, and a footer."""
MAGIC = b"darkroom pack v1"
_ENTRY = struct.Struct("<32sII")
_FOOTER = struct.Struct("<16s16sII")
FOOTER_SIZE = _FOOTER.size + crypto.DIGEST_SIZE + len(MAGIC)


class PackInvalidError(DamagedError):
    """A pack's trailer is not what was written."""

    code = "pack-invalid"
    what = "a pack is damaged or cut short"
    default_remedy = "restore the object from a copy, or import the images that use it again"


def object_key(scope: UUID, pack: UUID) -> str:
    """The key of a pack's object."""
    return f"scopes/{scope}/packs/{pack.hex[:2]}/{pack}"


@dataclass(slots=True)
class Pack:
    """A pack that is being filled; positions are final as soon as a chunk is added."""

    scope: UUID
    id: UUID = field(default_factory=uuid4)
    parts: list[Buffer] = field(default_factory=list)
    entries: list[tuple[bytes, int, int]] = field(default_factory=list)
    size: int = 0

    def add(self, chunk_id: bytes, stored: Buffer) -> tuple[int, int]:
        """Append an encoded chunk; return its offset and length."""
        position = (self.size, len(stored))
        self.parts.append(stored)
        self.entries.append((chunk_id, *position))
        self.size += len(stored)
        return position

    def encode(self) -> list[Buffer]:
        """Return the object's bytes in parts: the chunks, then the trailer with its footer."""
        trailer = b"".join(_ENTRY.pack(*entry) for entry in self.entries)
        trailer += _FOOTER.pack(self.scope.bytes, self.id.bytes, len(self.entries), 0)
        return [*self.parts, trailer + crypto.digest(trailer) + MAGIC]


def read_trailer(store: Store, scope: UUID, pack: UUID) -> list[tuple[bytes, int, int]]:
    """Return (chunk id, offset, length) of every chunk in the pack; raises PackInvalidError."""
    key = object_key(scope, pack)
    size = store.size(key)
    if size < FOOTER_SIZE:
        raise PackInvalidError(key, f"at least {FOOTER_SIZE} bytes", f"{size}")
    footer = store.get(key, size - FOOTER_SIZE, FOOTER_SIZE)
    found_scope, found_pack, number, _ = _FOOTER.unpack_from(footer)
    if footer[-len(MAGIC) :] != MAGIC or (found_scope, found_pack) != (scope.bytes, pack.bytes):
        raise PackInvalidError(key, "its own footer", "another, or none")
    trailer_size = number * _ENTRY.size
    if number > MAX_CHUNKS or trailer_size + FOOTER_SIZE > size:
        raise PackInvalidError(key, f"at most {MAX_CHUNKS} chunks", f"{number}")
    trailer = store.get(key, size - FOOTER_SIZE - trailer_size, trailer_size) if number else b""
    return _decode_trailer(key, trailer, footer)


def _decode_trailer(key: str, trailer: Buffer, footer: bytes) -> list[tuple[bytes, int, int]]:
    signed = bytes(trailer) + footer[: _FOOTER.size]
    if crypto.digest(signed) != footer[_FOOTER.size : -len(MAGIC)]:
        raise PackInvalidError(key, "the digest of its trailer", "another")
    return [(bytes(identity), offset, length) for identity, offset, length in _ENTRY.iter_unpack(trailer)]
