"""The content digest: the same for the same guest-visible bytes, whatever the format, scope or key."""

import struct
from collections.abc import Sequence

from blake3 import blake3

from darkroom import chunks, crypto

_ZERO_RUN = 4096


class ContentHasher:
    """BLAKE3 over "darkroom content v1", the virtual size (u64) and the BLAKE3 of every chunk in order.

    Chunks that are not added are zero; they are added in order.
    """

    def __init__(self, virtual_size: int) -> None:
        self._size = virtual_size
        self._next = 0
        self._hasher = blake3(b"darkroom content v1" + struct.pack("<Q", virtual_size))

    def add(self, number: int, digest: bytes) -> None:
        """Add the plain digest of chunk `number`."""
        self._zeros(number)
        self._hasher.update(digest)
        self._next = number + 1

    def digest(self) -> bytes:
        """The content digest, 32 bytes; nothing can be added afterwards."""
        count = chunks.count(self._size)
        last = count - 1
        if self._next <= last:
            self._zeros(last)
            self._hasher.update(crypto.digest(bytes(chunks.length_of(last, self._size))))
        self._next = count
        return self._hasher.digest()

    def _zeros(self, until: int) -> None:
        while self._next < until:
            count = min(_ZERO_RUN, until - self._next)
            self._hasher.update(chunks.ZERO_DIGEST * count)
            self._next += count


def digest_of_disks(digests: Sequence[bytes]) -> bytes:
    """The content digest of an image by those of its disks in order; of one disk it is the disk's own."""
    if len(digests) == 1:
        return digests[0]
    return crypto.digest(b"darkroom disks v1" + struct.pack("<I", len(digests)) + b"".join(digests))
