"""Chunks, packs, manifests and their seals: round trips, and every kind of tampering."""

import struct
from uuid import UUID, uuid4

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from darkroom import chunks, content, crypto, manifest, packs, store
from darkroom.crypto import SealBrokenError
from darkroom.errors import DamagedError
from darkroom.manifest import ChunkRef, ManifestInvalidError
from darkroom.model import CHUNK_SIZE
from darkroom.settings import Settings

PLAIN = chunks.Scope(UUID(int=1), encrypted=False)
SEALED = chunks.Scope(UUID(int=2), encrypted=True, secret=b"s" * 32)
KEY = b"k" * 32


@pytest.fixture
def here(home):
    return store.open_store(str(home / "store"), Settings())


@pytest.mark.parametrize("scope", [PLAIN, SEALED], ids=["plain", "sealed"])
@given(data=st.one_of(st.binary(min_size=1, max_size=2000), st.builds(lambda n: b"ab" * n, st.integers(1, 262144))))
def test_a_chunk_decodes_to_what_was_encoded(scope, data):
    digest = scope.digest(data)

    assert scope.decode(digest, scope.encode(digest, data), len(data)) == data


@pytest.mark.parametrize("scope", [PLAIN, SEALED], ids=["plain", "sealed"])
def test_a_chunk_changed_in_any_byte_never_decodes(scope):
    data = b"a line of text\n" * 20
    digest = scope.digest(data)
    stored = scope.encode(digest, data)

    for at in range(len(stored)):
        damaged = stored[:at] + bytes((stored[at] ^ 1,)) + stored[at + 1 :]
        with pytest.raises(DamagedError):
            scope.decode(digest, damaged, len(data))
    for cut in (0, 1, 5, len(stored) - 1):
        with pytest.raises(DamagedError):
            scope.decode(digest, stored[:cut], len(data))


@pytest.mark.parametrize("scope", [PLAIN, SEALED], ids=["plain", "sealed"])
def test_a_chunk_put_in_the_place_of_another_never_decodes(scope):
    one, two = b"1" * 1000, b"2" * 1000

    with pytest.raises(DamagedError):
        scope.decode(scope.digest(one), scope.encode(scope.digest(two), two), 1000)


def test_a_sealed_chunk_of_another_scope_or_codec_does_not_open():
    data = b"x" * 100
    digest = SEALED.digest(data)
    stored = SEALED.encode(digest, data)
    elsewhere = chunks.Scope(UUID(int=3), encrypted=True, secret=SEALED.secret)

    with pytest.raises(SealBrokenError):
        elsewhere.decode(digest, stored, 100)
    with pytest.raises(DamagedError):
        SEALED.decode(digest, bytes((chunks.RAW,)) + stored[1:], 100)


def test_a_frame_that_claims_more_than_a_chunk_is_not_expanded():
    bomb = bytes((chunks.ZSTD,)) + zstandard.compress(bytes(1 << 28))

    with pytest.raises(chunks.ChunkInvalidError, match="another size"):
        PLAIN.decode(b"d" * 32, bomb, CHUNK_SIZE)


def test_what_does_not_compress_is_stored_as_it_is():
    data = crypto.random_key() * 1 + bytes(range(200))
    incompressible = b"".join(crypto.random_key() for _ in range(100))

    assert PLAIN.encode(b"", incompressible) == bytes((chunks.RAW,)) + incompressible
    assert PLAIN.encode(b"", data * 100)[0] == chunks.ZSTD


def test_ids_reveal_neither_content_nor_each_other():
    data = b"known content"

    assert PLAIN.chunk_id(PLAIN.digest(data)) == crypto.digest(data)
    other = chunks.Scope(UUID(int=2), encrypted=True, secret=b"t" * 32)
    ids = {crypto.digest(data), SEALED.digest(data), SEALED.chunk_id(SEALED.digest(data)), other.digest(data)}
    assert len(ids) == 4


def test_sealing_twice_never_uses_a_nonce_twice():
    digest = SEALED.digest(b"data")

    assert len({bytes(SEALED.encode(digest, b"data")) for _ in range(1000)}) == 1000


def test_a_pack_lists_its_chunks(here):
    pack = packs.Pack(SEALED.id)
    places = {bytes((n,)) * 32: pack.add(bytes((n,)) * 32, b"x" * n) for n in range(1, 50)}
    parts = pack.encode()
    key = packs.object_key(SEALED.id, pack.id)
    here.put(key, parts, sum(map(len, parts)))

    assert {i: (offset, length) for i, offset, length in packs.read_trailer(here, SEALED.id, pack.id)} == places
    for identity, (offset, length) in places.items():
        assert here.get(key, offset, length) == b"x" * identity[0]


def test_a_damaged_or_swapped_pack_is_named(here):
    one, two = packs.Pack(PLAIN.id), packs.Pack(PLAIN.id)
    for pack in (one, two):
        pack.add(b"i" * 32, b"data" * 100)
    body = b"".join(one.encode())
    key = packs.object_key(PLAIN.id, two.id)

    for bad in (body, b"", body[:50], body[:-1], body[:420] + b"!" + body[421:]):
        here.put(key, [bad], len(bad))
        with pytest.raises(packs.PackInvalidError):
            packs.read_trailer(here, PLAIN.id, two.id)


def write(here, scope, refs, size, image=None):
    image = image or uuid4()
    pages = [[] for _ in range(-(-chunks.count(size) // manifest.PAGE_CHUNKS))]
    for ref in refs:
        pages[ref.number // manifest.PAGE_CHUNKS].append(ref)
    writer = manifest.Writer(image, 0, scope, KEY, size)
    length = writer.encoded_size([len(page) for page in pages], len({ref.pack for ref in refs}))
    here.put(manifest.object_key(image, 0), writer.encode(pages, lambda: b"c" * 32), length)
    return image, crypto.digest(writer.table)


def some_refs():
    pack_ids = [uuid4() for _ in range(3)]
    numbers = [0, 1, 5, 4095, 4096, 4097, 12_300]
    return [ChunkRef(n, pack_ids[n % 3], n * 7, 100 + n, bytes((n % 256,)) * 32) for n in numbers]


@pytest.mark.parametrize("scope", [PLAIN, SEALED], ids=["plain", "sealed"])
def test_a_manifest_reads_as_it_was_written(here, scope):
    refs = some_refs()
    image, digest = write(here, scope, refs, 13_000 * CHUNK_SIZE + 5)

    found = manifest.read(here, image, 0, digest)
    assert (found.virtual_size, found.scope.id, found.scope.encrypted) == (
        13_000 * CHUNK_SIZE + 5,
        scope.id,
        scope.encrypted,
    )
    assert [ref for page in range(4) for ref in manifest.read_page(here, found, page, KEY)] == refs
    assert found.pages[2].length == 0


def test_a_sealed_page_shows_no_digest_and_needs_its_data_key(here):
    refs = some_refs()
    image, digest = write(here, SEALED, refs, 13_000 * CHUNK_SIZE)
    body = here.get(manifest.object_key(image, 0))

    assert not any(ref.digest in body for ref in refs)
    with pytest.raises(SealBrokenError):
        manifest.read_page(here, manifest.read(here, image, 0, digest), 0, b"w" * 32)


def test_an_older_or_foreign_manifest_put_back_is_refused(here):
    refs = some_refs()
    image, _ = write(here, PLAIN, refs[:3], 13_000 * CHUNK_SIZE)
    old = here.get(manifest.object_key(image, 0))
    image, digest = write(here, PLAIN, refs, 13_000 * CHUNK_SIZE, image)
    here.put(manifest.object_key(image, 0), [old], len(old))
    with pytest.raises(ManifestInvalidError):
        manifest.read(here, image, 0, digest)

    other, other_digest = write(here, PLAIN, refs, 13_000 * CHUNK_SIZE)
    foreign = here.get(manifest.object_key(other, 0))
    here.put(manifest.object_key(image, 0), [foreign], len(foreign))
    with pytest.raises(ManifestInvalidError):
        manifest.read(here, image, 0, other_digest)


def test_a_manifest_changed_in_any_byte_is_refused(here):
    image, digest = write(here, PLAIN, some_refs()[:3], 10 * CHUNK_SIZE)
    key = manifest.object_key(image, 0)
    body = here.get(key)

    for at in range(len(body)):
        damaged = body[:at] + bytes((body[at] ^ 0x10,)) + body[at + 1 :]
        here.put(key, [damaged], len(damaged))
        with pytest.raises(DamagedError):
            manifest.read_page(here, manifest.read(here, image, 0, digest), 0, KEY)
    for cut in (0, 10, len(body) - 1):
        here.put(key, [body[:cut]], cut)
        with pytest.raises(DamagedError):
            manifest.read(here, image, 0, digest)


def test_swapped_sealed_pages_do_not_open(here):
    refs = [ChunkRef(n, UUID(int=9), 0, 1, b"d" * 32) for n in (0, 4096)]
    image, digest = write(here, SEALED, refs, 8192 * CHUNK_SIZE)
    found = manifest.read(here, image, 0, digest)
    swapped = (found.pages[1], found.pages[0])
    forged = manifest.Manifest(image, 0, found.scope, found.virtual_size, found.content_digest, found.packs, swapped)

    with pytest.raises(SealBrokenError):
        manifest.read_page(here, forged, 0, KEY)


@pytest.mark.parametrize("size", [1, CHUNK_SIZE, CHUNK_SIZE + 1, 5000 * CHUNK_SIZE + 77])
def test_the_content_digest_is_that_of_the_format_page(size):
    """Computed here as DESIGN.md states it, from all chunks, zeros included."""
    data = {0: b"first" * 3, 4999: b"y" * CHUNK_SIZE}
    wanted = b"darkroom content v1" + struct.pack("<Q", size)
    hasher = content.ContentHasher(size)
    for number in range(chunks.count(size)):
        length = chunks.length_of(number, size)
        chunk = data.get(number, b"")[:length].ljust(length, b"\0")
        wanted += crypto.digest(chunk)
        if number in data:
            hasher.add(number, crypto.digest(chunk))

    assert hasher.digest() == crypto.digest(wanted)
    assert hasher.digest() != content.ContentHasher(size).digest()
