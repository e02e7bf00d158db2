"""The end of an upload: its run records become the manifest."""

from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from darkroom import chunks, manifest, upload
from darkroom.catalog import uploads
from darkroom.content import ContentHasher
from darkroom.manifest import PAGE_CHUNKS, ChunkRef


@dataclass(frozen=True, slots=True)
class Totals:
    """What a disk came to, in bytes, with its digests."""

    allocated_size: int
    stored_size: int
    new_size: int
    content_digest: bytes
    manifest_digest: bytes
    manifest_mac: bytes | None
    """None for a plain image."""


def write_manifest(target: upload.Target, virtual_size: int) -> Totals:
    """Write the manifest of a disk whose runs are all recorded; can be repeated.

    Reads the records twice, first to know the object's size and to note what it uses of each pack, so that memory holds
    one page of them at a time.
    """
    page_count = -(-chunks.count(virtual_size) // PAGE_CHUNKS)
    counts, packs = [0] * page_count, set()
    places: list[tuple[UUID, int]] = []
    for ref, _ in upload.recorded(target):
        counts[ref.number // PAGE_CHUNKS] += 1
        packs.add(ref.pack)
        places.append((ref.pack, ref.offset))
        if len(places) == PAGE_CHUNKS:
            uploads.mark_used(target.catalog, target.image, places)
            places.clear()
    uploads.mark_used(target.catalog, target.image, places)
    pages = _Pages(target, virtual_size)
    writer = manifest.Writer(target.image, target.disk, target.scope, target.data_key, virtual_size)
    size = writer.encoded_size(counts, len(packs))
    target.store.put(
        manifest.object_key(target.image, target.disk),
        writer.encode(pages.read(page_count), pages.content_digest),
        size,
    )
    runs = uploads.finished_runs(target.catalog, target.image, target.disk)
    new_size = sum(run.new_size for run in runs)
    return Totals(pages.allocated_size, pages.stored_size, new_size, pages.content_digest(), *writer.digests())


class _Pages:
    """The references of a disk page by page, with what adds up on the way."""

    def __init__(self, target: upload.Target, virtual_size: int) -> None:
        self.target = target
        self.virtual_size = virtual_size
        self.allocated_size = 0
        self.stored_size = 0
        self._hasher = ContentHasher(virtual_size)

    def content_digest(self) -> bytes:
        return self._hasher.digest()

    def read(self, page_count: int) -> Iterator[list[ChunkRef]]:
        refs: list[ChunkRef] = []
        number = 0
        for ref, plain_digest in upload.recorded(self.target):
            while ref.number >= (number + 1) * PAGE_CHUNKS:
                yield refs
                refs, number = [], number + 1
            refs.append(ref)
            self._hasher.add(ref.number, plain_digest)
            self.allocated_size += chunks.length_of(ref.number, self.virtual_size)
            self.stored_size += ref.length
        yield refs
        for _ in range(number + 1, page_count):
            yield []
