"""The pass, on disks described as lists of (kind, length): what comes out is what went in, however often it broke."""

import os
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from darkroom import assembly, chunks, crypto, download, manifest, packs, systems, upload
from darkroom.catalog import images, uploads
from darkroom.model import CHUNK_SIZE
from darkroom.store import StoreUnavailableError
from tests import faults, operations
from tests.strategies import LENGTHS, BytesReader, parts

SHARED = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def new_target(to, key=None, store=None):
    number, scope = systems.ensure_scope(to, key)
    with to.catalog.transaction() as connection:
        image = images.create(connection, {"name": str(uuid4()), "type": "data", "source": "", "request": {}}, {})
        uploads.take_lease(connection, image)
    return upload.Target(to.catalog, store or to.store, image, 0, scope, number, crypto.random_key() if key else b"")


def bring(reader, target):
    upload.upload(reader, target, operations.quiet)
    return assembly.write_manifest(target, reader.size)


def read_all(to, target, totals):
    table = manifest.read(to.store, target.image, 0, totals.manifest_digest)
    reader = download.DiskReader(to.store, table, target.data_key)
    try:
        return reader.read(0, reader.size)
    finally:
        reader.close()


@pytest.fixture
def small_runs(monkeypatch):
    """Runs of a few chunks, so that a small disk has many."""
    monkeypatch.setattr(packs, "TARGET_SIZE", CHUNK_SIZE)
    monkeypatch.setattr(upload, "_BATCH", 2)


@SHARED
@given(described=parts, key=st.sampled_from([None, "gold"]))
def test_any_disk_comes_out_as_it_went_in(to, small_runs, described, key):
    reader, target = BytesReader(described), new_target(to, key)
    totals = bring(reader, target)

    assert read_all(to, target, totals) == reader.data


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("kind", ["data", "zero", "hole"])
def test_boundary_lengths(to, length, kind):
    reader, target = BytesReader([(kind, length)]), new_target(to)
    totals = bring(reader, target)

    assert read_all(to, target, totals) == reader.data
    assert totals.allocated_size == (length if kind == "data" else 0)


def test_holes_are_never_read_and_zeros_never_stored(to):
    reader = BytesReader([("data", CHUNK_SIZE), ("hole", 50 * CHUNK_SIZE), ("zero", 10 * CHUNK_SIZE), ("data", 100)])
    target = new_target(to)
    totals = bring(reader, target)

    assert sum(length for _, length in reader.reads) == 11 * CHUNK_SIZE + 100
    assert totals.allocated_size == CHUNK_SIZE + 100
    assert operations.objects(to)[manifest.object_key(target.image, 0)] < 400


def test_equal_chunks_are_stored_once_in_a_scope_and_not_across(to):
    described = [("same", 8 * CHUNK_SIZE), ("data", 4 * CHUNK_SIZE)]
    first = bring(BytesReader(described), new_target(to))
    again = bring(BytesReader(described), new_target(to))
    sealed = bring(BytesReader(described), new_target(to, "gold"))
    sealed_again = bring(BytesReader(described), new_target(to, "gold"))
    to.keys.create("silver")
    other_key = bring(BytesReader(described), new_target(to, "silver"))

    assert first.new_size == sealed.new_size - 5 * crypto.OVERHEAD == other_key.new_size - 5 * crypto.OVERHEAD
    assert again.new_size == sealed_again.new_size == 0
    assert len({t.content_digest for t in (first, again, sealed, sealed_again, other_key)}) == 1


def test_no_plaintext_and_no_key_is_in_any_object_or_row_of_an_encrypted_image(to):
    secret = b"THE SECRET LINE OF THE GUEST" * 100
    reader = BytesReader([("zero", len(secret))])
    reader.data = secret
    target = new_target(to, "gold")
    bring(reader, target)
    digest = target.scope.digest(secret)
    forbidden = [
        secret[:28],
        target.data_key,
        target.scope.secret,
        digest,
        crypto._chunk_key(digest),
        crypto.digest(secret),
    ]

    bodies = [to.store.get(key) for key in operations.objects(to)]
    with to.catalog.transaction() as connection:
        for table in ("images", "runs", "chunks", "packs", "scopes", "wraps", "events"):
            bodies += [
                repr(row).encode() for row in connection.execute(f"SELECT {table}::text FROM {table}").fetchall()
            ]
    for body in bodies:
        for word in forbidden:
            assert word not in body
            assert word.hex().encode() not in body


@pytest.mark.parametrize("fail_at", [0, 3, 7, 11])
def test_a_broken_upload_goes_on_behind_what_it_recorded(to, small_runs, fail_at):
    described = [("data", 12 * CHUNK_SIZE + 7)]
    target = new_target(to, "gold")
    broken = BytesReader(described)
    broken.fail_at = fail_at * CHUNK_SIZE
    with pytest.raises(OSError, match="broke"):
        upload.upload(broken, target, operations.quiet)
    recorded = sum(run.chunk_count for run in uploads.finished_runs(to.catalog, target.image, 0))
    before = operations.objects(to)

    whole = BytesReader(described)
    totals = bring(whole, target)
    assert read_all(to, target, totals) == whole.data
    assert min(offset for offset, _ in whole.reads) >= recorded * CHUNK_SIZE
    assert before.items() <= operations.objects(to).items()


@pytest.mark.parametrize("script", ["E", "OE", "OOE", "OOOOE", "OEOEOE"])
def test_a_store_that_fails_leaves_an_upload_that_goes_on(to, small_runs, script):
    target = new_target(to, "gold", faults.ScriptedStore(to.store, script))
    reader = BytesReader([("data", 9 * CHUNK_SIZE)])
    failures = 0
    while True:
        try:
            totals = bring(reader, target)
            break
        except StoreUnavailableError:
            failures += 1

    assert failures >= 1
    assert read_all(to, target, totals) == reader.data


def test_what_a_broken_upload_left_is_all_that_the_collector_finds(to, small_runs, catalog_url):
    target = new_target(to, store=faults.ScriptedStore(to.store, "OOE"))
    reader = BytesReader([("data", 9 * CHUNK_SIZE)])
    with pytest.raises(StoreUnavailableError):
        upload.upload(reader, target, operations.quiet)
    bring(reader, target)
    with to.catalog.transaction() as connection:
        connection.execute("INSERT INTO disks VALUES (%s, 0, 1)", (target.image,))
        rows = connection.execute("SELECT uuid, status FROM packs").fetchall()

    plan = operations.collector_plan(to, catalog_url)
    assert set(plan.packs) == {row["uuid"] for row in rows if row["status"] == "writing"}
    assert plan.objects == {}


def test_many_readers_at_once_see_the_same_bytes(to, small_runs):
    from concurrent.futures import ThreadPoolExecutor

    reader = BytesReader([("data", 40 * CHUNK_SIZE), ("hole", 10 * CHUNK_SIZE), ("same", 10 * CHUNK_SIZE + 99)])
    target = new_target(to, "gold")
    totals = bring(reader, target)
    table = manifest.read(to.store, target.image, 0, totals.manifest_digest)
    disk = download.DiskReader(to.store, table, target.data_key)
    ranges = [
        (int.from_bytes(os.urandom(4)) % reader.size, int.from_bytes(os.urandom(3)) % 3_000_000) for _ in range(200)
    ]
    ranges = [(offset, min(length, reader.size - offset)) for offset, length in ranges]

    with ThreadPoolExecutor(8) as pool:
        for (offset, length), data in zip(ranges, pool.map(lambda r: disk.read(*r), ranges), strict=True):
            assert data == reader.data[offset : offset + length]
    extents = disk.extents(0, disk.size)
    assert [e.zero for e in extents] == [False, True, False]
    assert chunks.count(disk.size) == 61
    disk.close()
