"""The manifest: one object per disk that lists its chunks, in pages of 4096 (2 GiB of disk).

    pages       each: 48 bytes per chunk that is not zero, in order
                  chunk number in the page (u32), pack number (u32), offset (u32), length (u32), d (32)
                sealed with the data key if the image is encrypted; a page without chunks has no bytes
    table       header, 112 bytes:
                  magic (16), image (16), scope (16), disk number (u32), chunk size (u32), virtual size (u64),
                  flags (u32, 1 = encrypted), pack count (u32), page count (u32), reserved (u32, 0)
                  and content digest (32)
                packs, 16 bytes each: pack id
                pages, 44 bytes each: offset (u64), length (u32), BLAKE3 of the page's bytes (32)
    footer      table offset (u64), table length (u64)

Integers are little-endian. The catalog holds the digest of the table, and the table that of each page, so one
page can be fetched and trusted alone. The place of a chunk is a hint, `d` is its identity: should a chunk have
moved to another pack, the chunk index of the catalog tells where it is now.
"""

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from darkroom import chunks, crypto
from darkroom.errors import DamagedError
from darkroom.model import CHUNK_SIZE, Buffer
from darkroom.store import Store

PAGE_CHUNKS = 4096
_WINDOW_PAGES = 64
"""Pages that are read at once where all are: 12 MiB at most, or a fraction of that where disks are sparse."""
MAGIC = b"darkroom mani v1"
_REF = struct.Struct("<IIII32s")
_HEADER = struct.Struct("<16s16s16sIIQIIII32s")
_PAGE = struct.Struct("<QI32s")
_FOOTER = struct.Struct("<QQ")
_ENCRYPTED = 1


class ManifestInvalidError(DamagedError):
    """A manifest is not the one that the catalog names."""

    code = "manifest-invalid"
    what = "the manifest is not the one that was written"
    default_remedy = "restore the object from a copy, or import the image again"


@dataclass(frozen=True, slots=True)
class ChunkRef:
    """Where one chunk of a disk is stored: `number` on the disk, pack, offset, length, and its secret digest."""

    number: int
    pack: UUID
    offset: int
    length: int
    digest: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class PageInfo:
    """Where a page lies in the manifest's object, and the BLAKE3 of its bytes there."""

    offset: int
    length: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest without its pages' content."""

    image: UUID
    disk: int
    scope: chunks.Scope
    virtual_size: int
    content_digest: bytes
    packs: tuple[UUID, ...]
    pages: tuple[PageInfo, ...]


def object_key(image: UUID, disk: int) -> str:
    """The key of a manifest's object."""
    return f"images/{image}/disk-{disk}"


def encode_refs(refs: Iterable[ChunkRef], pack_numbers: dict[UUID, int], base: int) -> bytes:
    """Encode chunk references, numbered from chunk `base` of the disk."""
    return b"".join(
        _REF.pack(ref.number - base, pack_numbers[ref.pack], ref.offset, ref.length, ref.digest) for ref in refs
    )


def decode_refs(data: Buffer, packs: Sequence[UUID], base: int) -> list[ChunkRef]:
    """Undo `encode_refs`; raises ManifestInvalidError."""
    try:
        return [
            ChunkRef(base + number, packs[pack], offset, length, digest)
            for number, pack, offset, length, digest in _REF.iter_unpack(data)
        ]
    except (struct.error, IndexError):
        raise ManifestInvalidError(f"page at chunk {base}", "whole entries of known packs", "others") from None


class Writer:
    """Encodes a manifest in parts, page after page, in memory for one page and the table."""

    def __init__(self, image: UUID, disk: int, scope: chunks.Scope, data_key: bytes, virtual_size: int) -> None:
        self.image, self.disk, self.scope, self.data_key = image, disk, scope, data_key
        self.virtual_size = virtual_size
        self.packs: dict[UUID, int] = {}
        self.pages: list[PageInfo] = []
        self.table = b""
        self._offset = 0

    def encoded_size(self, counts: Sequence[int], packs: int) -> int:
        """The object's size for pages of `counts` chunks and a number of packs, known before encoding."""
        overhead = crypto.OVERHEAD if self.scope.encrypted else 0
        pages = sum(count * _REF.size + overhead for count in counts if count)
        return pages + self._table_size(packs, len(counts)) + _FOOTER.size

    def encode(self, pages: Iterable[list[ChunkRef]], content_digest: Callable[[], bytes]) -> Iterator[bytes]:
        """Yield the object's bytes; afterwards `table` holds the bytes that the catalog keeps the digest of.

        `content_digest` is called when all pages have been taken, since it covers them all.
        """
        return self._encode((self._listed(number, refs) for number, refs in enumerate(pages)), content_digest)

    def encode_copy(self, store: Store, source: Manifest, data_key: bytes) -> Iterator[bytes]:
        """As `encode`, with the pages of another manifest of the same scope and size, which `data_key` opens.

        The object is as large as that of the source.
        """
        self.packs = {pack: number for number, pack in enumerate(source.packs)}
        return self._encode(_all_pages(store, source, data_key), lambda: source.content_digest)

    def _encode(self, pages: Iterable[bytes], content_digest: Callable[[], bytes]) -> Iterator[bytes]:
        for number, page in enumerate(pages):
            data = page
            if data and self.scope.encrypted:
                data = crypto.seal_page(self.data_key, self.image, self.disk, number, page)
            self.pages.append(PageInfo(self._offset, len(data), crypto.digest(data)))
            self._offset += len(data)
            yield data
        self.table = self._table(content_digest())
        yield self.table
        yield _FOOTER.pack(self._offset, len(self.table))

    def _listed(self, number: int, refs: list[ChunkRef]) -> bytes:
        for ref in refs:
            self.packs.setdefault(ref.pack, len(self.packs))
        return encode_refs(refs, self.packs, number * PAGE_CHUNKS)

    def digests(self) -> tuple[bytes, bytes | None]:
        """The digest of the table that was written, and for an encrypted image its MAC."""
        digest = crypto.digest(self.table)
        if not self.scope.encrypted:
            return digest, None
        return digest, crypto.manifest_mac(self.data_key, self.image, self.disk, digest)

    @staticmethod
    def _table_size(packs: int, pages: int) -> int:
        return _HEADER.size + packs * 16 + pages * _PAGE.size

    def _table(self, content_digest: bytes) -> bytes:
        flags = _ENCRYPTED if self.scope.encrypted else 0
        sizes = (self.disk, CHUNK_SIZE, self.virtual_size, flags, len(self.packs), len(self.pages), 0)
        header = _HEADER.pack(MAGIC, self.image.bytes, self.scope.id.bytes, *sizes, content_digest)
        packs = b"".join(pack.bytes for pack in self.packs)
        return header + packs + b"".join(_PAGE.pack(p.offset, p.length, p.digest) for p in self.pages)


def read(store: Store, image: UUID, disk: int, table_digest: bytes | None) -> Manifest:
    """Read the table of a manifest; `table_digest` is the catalog's, None only to rebuild a catalog.

    Raises ManifestInvalidError for a damaged manifest, another image's, or an older one put back.
    """
    key = object_key(image, disk)
    size = store.size(key)
    if size < _FOOTER.size:
        raise ManifestInvalidError(key, f"at least {_FOOTER.size} bytes", f"{size}")
    offset, length = _FOOTER.unpack(store.get(key, size - _FOOTER.size, _FOOTER.size))
    if offset + length + _FOOTER.size != size:
        raise ManifestInvalidError(key, "a footer that fits its size", "another")
    table = store.get(key, offset, length)
    if table_digest is not None and crypto.digest(table) != table_digest:
        raise ManifestInvalidError(key, "the digest in the catalog", "another")
    manifest = _decode_table(key, table)
    if (manifest.image, manifest.disk) != (image, disk):
        raise ManifestInvalidError(key, f"image {image} disk {disk}", f"image {manifest.image}")
    return manifest


def _decode_table(key: str, table: bytes) -> Manifest:
    try:
        magic, image, scope, disk, chunk_size, size, flags, packs, pages, _, content = _HEADER.unpack_from(table)
        at = _HEADER.size
        pack_ids = tuple(UUID(bytes=table[at + 16 * n : at + 16 * n + 16]) for n in range(packs))
        infos = tuple(PageInfo(*entry) for entry in _PAGE.iter_unpack(table[at + 16 * packs :]))
    except (struct.error, ValueError):
        raise ManifestInvalidError(key, "a whole table", "a cut one") from None
    if magic != MAGIC or chunk_size != CHUNK_SIZE or len(infos) != pages:
        raise ManifestInvalidError(key, "format version 1", "another")
    owner = chunks.Scope(UUID(bytes=scope), bool(flags & _ENCRYPTED))
    return Manifest(UUID(bytes=image), disk, owner, size, content, pack_ids, infos)


def read_page(store: Store, manifest: Manifest, number: int, data_key: bytes) -> list[ChunkRef]:
    """Read, verify and decode one page; raises ManifestInvalidError or SealBrokenError."""
    return decode_refs(_open_page(store, manifest, number, data_key), manifest.packs, number * PAGE_CHUNKS)


def _open_page(store: Store, manifest: Manifest, number: int, data_key: bytes) -> bytes:
    info = manifest.pages[number]
    if not info.length:
        return b""
    data = store.get(object_key(manifest.image, manifest.disk), info.offset, info.length)
    return _verified(manifest, number, data, data_key)


def _verified(manifest: Manifest, number: int, data: Buffer, data_key: bytes) -> bytes:
    if crypto.digest(data) != manifest.pages[number].digest:
        key = object_key(manifest.image, manifest.disk)
        raise ManifestInvalidError(f"{key} page {number}", "the digest in its table", "another")
    if manifest.scope.encrypted:
        return crypto.open_page(data_key, manifest.image, manifest.disk, number, data)
    return bytes(data)


def _all_pages(store: Store, manifest: Manifest, data_key: bytes) -> Iterator[bytes]:
    """The plain bytes of all pages in order, read many at a time."""
    key = object_key(manifest.image, manifest.disk)
    window, start = memoryview(b""), 0
    for number, info in enumerate(manifest.pages):
        if not info.length:
            yield b""
            continue
        if info.offset + info.length > start + len(window):
            start = info.offset
            left = sum(page.length for page in manifest.pages[number : number + _WINDOW_PAGES])
            window = memoryview(store.get(key, start, left))
        yield _verified(manifest, number, window[info.offset - start :][: info.length], data_key)


def copy(store: Store, source: Manifest, image: UUID, data_key: bytes, new_key: bytes) -> tuple[bytes, bytes | None]:
    """Write the manifest of an image with the same chunks; its digest and MAC, as the catalog keeps them.

    `data_key` opens the source and `new_key` seals the copy. Raises ManifestInvalidError or SealBrokenError.
    """
    writer = Writer(image, source.disk, source.scope, new_key, source.virtual_size)
    parts = writer.encode_copy(store, source, data_key)
    store.put(object_key(image, source.disk), parts, store.size(object_key(source.image, source.disk)))
    return writer.digests()


def verify(store: Store, image: UUID, disk: int, table_digest: bytes, data_key: bytes) -> None:
    """Read a manifest and all of its pages; raises ManifestInvalidError or SealBrokenError."""
    for _ in _all_pages(store, read(store, image, disk, table_digest), data_key):
        pass
