"""Collect: what is freed, what is not, what is copied; damage and kills on the way. Races: test_collect_races.py."""

import dataclasses
import random
from uuid import UUID, uuid4

import pytest

from darkroom import (
    check,
    collect,
    compaction,
    creation,
    deleting,
    inbox,
    packs,
    projects,
    reap,
    rebuilding,
    sharing,
    sidecar,
    upload,
)
from darkroom.catalog import Catalog, CatalogRefusedError, create_project, images, uploads
from darkroom.errors import RefusedError, UnavailableError
from darkroom.model import CHUNK_SIZE
from darkroom.systems import open_systems
from tests import faults, killing, operations


@pytest.fixture
def operator(to, catalog_url):
    with Catalog(catalog_url, None) as catalog:
        yield dataclasses.replace(to, catalog=catalog)


@pytest.fixture(autouse=True)
def small_packs(monkeypatch):
    """Packs of four chunks of the disks that `disk` makes."""
    monkeypatch.setattr(packs, "TARGET_SIZE", 4 * 4096)
    monkeypatch.setattr(upload, "_BATCH", 2)


def disk(path, numbers):
    """A disk whose chunks are those of these numbers: equal numbers, equal chunks; 0 is zeros."""
    with open(path, "wb") as file:
        for number in numbers:
            text = random.Random(number).randbytes(4096) + bytes(CHUNK_SIZE - 4096)
            file.write(text if number else bytes(CHUNK_SIZE))
    return path


def add(to, tmp_path, name, numbers, **options):
    return operations.import_image(to, disk(tmp_path / name, numbers), name=name, **options)


def remove(to, image):
    deleting.delete(to, image)
    deleting.purge(to, image)


def stored(to):
    return {UUID(key[-36:]) for key in operations.objects(to) if "/packs/" in key}


def rows(to, query, *values):
    with to.catalog.transaction() as connection:
        return connection.execute(query, values).fetchall()


def assert_tidy(to, operator):
    """Nothing is unreferenced, nothing is missing, every image that can be read is well."""
    plan = collect.plan(operator.catalog, operator.store)
    assert (plan.packs, plan.objects, plan.sidecars) == ({}, {}, [])
    assert stored(to) == {row["uuid"] for row in rows(operator, "SELECT uuid FROM packs")}
    assert_well(to)


def assert_well(to):
    for row in rows(to, "SELECT *, true AS own FROM images WHERE status = 'active'"):
        assert check.check_image(to, row, operations.quiet)["findings"] == []


def content_of(numbers):
    return b"".join(
        random.Random(number).randbytes(4096) + bytes(CHUNK_SIZE - 4096) if number else bytes(CHUNK_SIZE)
        for number in numbers
    )


@pytest.mark.parametrize("key", ["", "gold"])
def test_what_a_purged_image_alone_used_is_freed(to, operator, tmp_path, key):
    one = add(to, tmp_path, "one", [1, 2, 3, 4, 5, 6, 7, 8], key=key)
    two = add(to, tmp_path, "two", [1, 2, 3, 4, 9], key=key)
    before = sum(operations.objects(to).values())
    remove(to, one)
    result = collect.collect(operator)

    assert (result["packs"], result["objects"], result["compacted"]) == (1, 0, 0)
    assert result["projects"] == {"default": result["freed_size"]}
    assert sum(operations.objects(to).values()) < before - result["freed_size"]
    assert operations.content(to, two) == content_of([1, 2, 3, 4, 9])
    assert_tidy(to, operator)


def test_a_dry_run_changes_nothing_and_says_the_same(to, operator, tmp_path):
    remove(to, add(to, tmp_path, "one", [1, 2, 3]))
    before = operations.objects(to), rows(operator, "SELECT * FROM packs")
    dry = collect.collect(operator, dry_run=True)

    assert (operations.objects(to), rows(operator, "SELECT * FROM packs")) == before
    assert collect.collect(operator) == dry
    assert collect.collect(operator)["freed_size"] == 0


@pytest.mark.parametrize("key", ["", "gold"])
def test_a_pack_that_is_mostly_dead_is_compacted(to, operator, tmp_path, key):
    one = add(to, tmp_path, "one", [1, 2, 3, 4, 5, 6, 7, 8], key=key)
    two = add(to, tmp_path, "two", [0, 4, 0, 8], key=key)
    before = stored(to)
    remove(to, one)
    result = collect.collect(operator)

    assert (result["packs"], result["compacted"]) == (0, 2)
    assert len(stored(to)) == 1
    assert not stored(to) & before
    assert operations.content(to, two) == content_of([0, 4, 0, 8])
    assert_tidy(to, operator)
    three = add(to, tmp_path, "three", [8, 4, 4], key=key)
    assert images.get(to.catalog, three)["new_size"] == 0
    remove(to, two)
    collect.collect(operator)
    assert operations.content(to, three) == content_of([8, 4, 4])
    remove(to, three)
    collect.collect(operator)
    assert stored(to) == set()
    assert rows(operator, "SELECT * FROM chunks") == []


def test_a_pack_that_is_half_live_or_more_is_left(to, operator, tmp_path):
    one = add(to, tmp_path, "one", [1, 2, 3, 4])
    add(to, tmp_path, "two", [1, 2, 3])
    before = stored(to)
    remove(to, one)

    assert collect.collect(operator)["compacted"] == 0
    assert stored(to) == before


def test_what_a_deleted_or_held_image_uses_is_live(to, operator, tmp_path):
    one = add(to, tmp_path, "one", [1, 2, 3, 4])
    two = add(to, tmp_path, "two", [4])
    three = add(to, tmp_path, "three", [3, 5])
    deleting.delete(to, two)
    with to.catalog.transaction() as connection:
        connection.execute("INSERT INTO holds (image_id, holder) VALUES (%s, %s)", (three, uuid4()))
    deleting.delete(to, three)
    remove(to, one)
    assert deleting.purge(to, three)["outcome"] == "held"
    collect.collect(operator)
    for name, numbers in (("two", [4]), ("three", [3, 5])):
        assert operations.content(to, deleting.restore(to, name)["image"]) == content_of(numbers)
    assert_tidy(to, operator)


def test_a_pack_that_an_upload_refers_to_is_left_alone(to, operator, tmp_path):
    one = add(to, tmp_path, "one", [1, 2, 3, 4])
    two = add(to, tmp_path, "two", [4])
    three = add(to, tmp_path, "three", [1, 2], until="upload_disk")
    before = stored(to)
    remove(to, one)
    assert collect.collect(operator)["compacted"] == 0
    assert stored(to) == before

    assert operations.import_image(to, tmp_path / "three", name="three") == three
    assert operations.content(to, two) == content_of([4])
    assert_tidy(to, operator)


def test_a_chunk_that_two_imports_brought_at_once_follows_to_the_pack_of_the_index(to, operator, tmp_path, monkeypatch):
    """The index has chunk 1 in the pack of the first; the second has a copy that only its manifest names."""
    one = add(to, tmp_path, "one", [1, 2, 3, 4])
    monkeypatch.setattr(uploads, "find_chunks", lambda *_: {})
    two = add(to, tmp_path, "two", [1, 5, 6, 7])
    monkeypatch.undo()
    monkeypatch.setattr(upload, "_BATCH", 2)
    three = add(to, tmp_path, "three", [5, 1])
    remove(to, two)
    four = add(to, tmp_path, "four", [1, 8])
    collect.collect(operator)
    remove(to, one)
    collect.collect(operator)
    assert_tidy(to, operator)
    assert operations.content(to, three) == content_of([5, 1])
    assert operations.content(to, four) == content_of([1, 8])


def test_a_copy_of_a_chunk_that_the_index_has_elsewhere_is_not_copied_again(to, operator, tmp_path, monkeypatch):
    one = add(to, tmp_path, "one", [1, 2])
    monkeypatch.setattr(uploads, "find_chunks", lambda *_: {})
    two = add(to, tmp_path, "two", [1, 5, 6, 7])
    three = add(to, tmp_path, "three", [1, 8, 9, 10])
    monkeypatch.undo()
    with operator.catalog.transaction() as connection:  # as if another image had used them
        connection.execute("UPDATE refs SET used = B'1000' WHERE image_id IN (%s, %s)", (two, three))
    for image in (two, three):
        for disk_row in rows(operator, "SELECT * FROM disks WHERE image_id = %s", image):
            assert disk_row["manifest_digest"]
    result = collect.collect(operator)

    assert result["compacted"] == 2
    assert len(stored(to)) == 1
    assert len(rows(operator, "SELECT * FROM refs")) == 3
    assert operations.content(to, one) == content_of([1, 2])


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_replica_that_shares_its_sources_packs_survives_their_compaction(to, operator, tmp_path, moment):
    one = add(to, tmp_path, "one", [1, 2, 3, 4, 5], key="gold")
    two = add(to, tmp_path, "two", [4], key="gold")
    remove(to, one)
    if moment == "before":
        operations.replicate(to, "two", "copy")
    assert collect.collect(operator)["compacted"] == 1
    if moment == "after":
        operations.replicate(to, "two", "copy")
    remove(to, two)
    collect.collect(operator)
    copy = images.find(to.catalog, "copy")

    assert operations.content(to, str(copy["id"])) == content_of([4])
    assert_tidy(to, operator)


def test_a_member_reads_a_shared_image_that_was_compacted(to, operator, tmp_path, catalog_url):
    with operator.catalog.transaction() as connection:
        create_project(connection, "acme")
    one = add(to, tmp_path, "one", [1, 2, 3, 4], key="gold")
    two = add(to, tmp_path, "two", [4, 0, 4], key="gold")
    with open_systems(dataclasses.replace(to.settings, project="acme")) as acme:
        acme.keys.create("steel")
        inbox.move(acme.catalog, acme.keys, "steel")
        sharing.share(to, "two", "acme")
        sharing.accept(acme, "two")
        remove(to, one)
        assert collect.collect(operator)["compacted"] == 1

        assert operations.content(acme, two) == content_of([4, 0, 4])
        with operator.catalog.transaction() as connection:
            assert [row["status"] for row in connection.execute("SELECT status FROM members")] == ["accepted"]
        assert [member["status"] for member in sidecar.read(to.store, UUID(two))["members"]] == ["accepted"]
        deleting.delete(to, two)
        with pytest.raises(images.ImageMissingError):
            operations.content(acme, two)


def test_a_pack_that_has_gone_is_asked_for_once(to, operator, tmp_path):
    one = add(to, tmp_path, "one", range(1, 13))
    two = add(to, tmp_path, "two", [1, 5, 6, 9])
    remove(to, one)
    assert collect.collect(operator)["compacted"] == 3
    watched = faults.ScriptedStore(to.store, "", on=["get"])

    assert operations.content(operations.with_store(to, watched), two) == content_of([1, 5, 6, 9])
    asked = [key for _, key in watched.calls if "/packs/" in key]
    assert len(asked) <= 3 + 4
    assert_tidy(to, operator)


def test_damage_on_the_way_leaves_the_pack_and_is_told(to, operator, tmp_path):
    one = add(to, tmp_path, "one", [1, 2, 3, 4])
    add(to, tmp_path, "two", [4])
    remove(to, one)
    (pack,) = stored(to)
    (key,) = [key for key in operations.objects(to) if str(pack) in key]
    body = bytearray(to.store.get(key))
    body[-60] ^= 1
    to.store.put(key, [body], len(body))
    result = collect.collect(operator)

    assert result["compacted"] == 0
    assert "pack-invalid" in result["damaged"][0]
    assert stored(to) == {pack}


def test_a_store_that_reads_wrongly_during_compaction_loses_nothing(to, operator, tmp_path):
    one = add(to, tmp_path, "one", [1, 2, 3, 4])
    two = add(to, tmp_path, "two", [4])
    remove(to, one)
    flipped = []
    real = operator.store.get

    def get(key, offset=0, length=None):
        data = real(key, offset, length)
        if "/packs/" in key and not flipped and length and 4000 < length < 8192:
            flipped.append(key)
            return data[:50] + bytes([data[50] ^ 1]) + data[51:]
        return data

    operator.store.get = get
    try:
        result = collect.collect(operator)
    finally:
        del operator.store.get

    assert flipped
    assert result["compacted"] == 0
    assert operations.content(to, two) == content_of([4])
    assert collect.collect(operator)["compacted"] == 1
    assert_tidy(to, operator)


def test_objects_that_no_row_names_go_and_nobody_elses(to, operator, tmp_path):
    image = add(to, tmp_path, "one", [1])
    scope = next(key for key in operations.objects(to) if "/packs/" in key).split("/")[1]
    lost = [packs.object_key(UUID(scope), uuid4()), f"images/{uuid4()}/disk-0"]
    others = ["reports/one.csv", f"images/{image}/proof.png", f"scopes/{scope}/notes"]
    for key in lost + others:
        to.store.put(key, [b"x"], 1)
    result = collect.collect(operator)

    assert (result["objects"], result["freed_size"]) == (2, 2)
    assert set(others) <= operations.objects(to).keys()
    assert not set(lost) & operations.objects(to).keys()


def test_what_a_killed_upload_left_goes_also_a_reference_taken_too_late(to, operator, tmp_path):
    one = add(to, tmp_path, "one", [1, 2])
    two = add(to, tmp_path, "two", [3, 4], until="upload_disk")
    creation.fail(to, two, RefusedError("x"))
    (scope,) = rows(to, "SELECT id FROM scopes")
    (chunk,) = rows(to, "SELECT chunk_id FROM chunks WHERE pack_id IN (SELECT pack_id FROM refs) LIMIT 1")
    uploads.find_chunks(to.catalog, UUID(two), scope["id"], [chunk["chunk_id"]])
    assert len(collect.collect(operator)["projects"]) == 1
    remove(to, one)
    collect.collect(operator)

    assert stored(to) == set()
    assert rows(operator, "SELECT * FROM refs") == []


def test_sidecars_that_are_behind_or_missing_are_written(to, operator, tmp_path):
    one, two, _ = (add(to, tmp_path, name, [1]) for name in ("one", "two", "three"))
    with to.catalog.transaction() as connection:
        connection.execute("INSERT INTO tags VALUES (%s, 'late', 'x')", (one,))
    to.store.delete(sidecar.object_key(UUID(two)))

    assert [collect.collect(operator)["sidecars"] for _ in range(2)] == [2, 0]
    assert [tag["key"] for tag in sidecar.read(to.store, UUID(one))["tags"]] == ["late"]
    assert sidecar.read(to.store, UUID(two))["image"]["name"] == "two"


def test_of_a_large_catalog_each_hour_compares_a_part_and_what_members_answered(to, operator, tmp_path, monkeypatch):
    images_ = [add(to, tmp_path, f"i{number}", [1]) for number in range(12)]
    with to.catalog.transaction() as connection:
        connection.execute("INSERT INTO tags SELECT id, 'late', 'x' FROM images")
    monkeypatch.setattr(sidecar, "_FEW", 0)
    with operator.catalog.transaction() as connection:
        project = connection.execute("SELECT project_id AS id FROM images").fetchone()["id"]
        found = sidecar.behind(connection, "true")
        connection.execute(
            "INSERT INTO members (image_id, project_id, status, answered_at) VALUES (%s, %s, 'accepted', now())",
            (images_[0], project),
        )
        also = sidecar.behind(connection, "true")

    assert len(found) < 12
    assert set(found) | {UUID(images_[0])} == set(also)


def test_a_catalog_that_lost_images_is_noticed_and_nothing_is_removed(to, operator, tmp_path):
    image = add(to, tmp_path, "one", [1])
    before = operations.objects(to)
    with operator.catalog.transaction() as connection:
        connection.execute("DELETE FROM images WHERE id = %s", (image,))
    with pytest.raises(collect.CatalogBehindError, match="rebuild-catalog"):
        collect.collect(operator)

    assert operations.objects(to) == before


def test_two_collections_at_once_are_one(operator):
    with collect.alone(operator.catalog), pytest.raises(collect.CollectingError):
        collect.collect(operator)


def test_what_is_freed_is_told_by_project(to, operator, tmp_path, catalog_url):
    with operator.catalog.transaction() as connection:
        create_project(connection, "other")
    with Catalog(catalog_url, "other") as catalog:
        settings = dataclasses.replace(to.settings, project="other")
        other = dataclasses.replace(to, catalog=catalog, settings=settings)
        remove(other, add(other, tmp_path, "theirs", [1, 2, 3, 4, 5]))
    remove(to, add(to, tmp_path, "ours", [1]))
    result = collect.collect(operator)

    assert set(result["projects"]) == {"default", "other"}
    assert result["projects"]["other"] > 4 * result["projects"]["default"]
    assert sum(result["projects"].values()) == result["freed_size"]


def test_the_operator_reaps_the_imports_that_any_project_gave_up(to, operator, tmp_path, catalog_url):
    with operator.catalog.transaction() as connection:
        create_project(connection, "other")
    with open_systems(dataclasses.replace(to.settings, project="other")) as other:
        given_up = {add(one, tmp_path, "one", [1], until="upload_disk") for one in (to, other)}
        with operator.catalog.transaction() as connection:
            connection.execute("UPDATE leases SET reap_at = now() - interval '1 second'")

        assert set(reap.reap(operator)["images"]) == given_up
        collect.collect(operator)
        for one, image in ((to, given_up), (other, given_up)):
            found = rows(one, "SELECT id::text, failure->>'code' AS code FROM images")
            assert [(row["id"] in image, row["code"]) for row in found] == [(True, "lease-expired")]
            assert rows(one, "SELECT * FROM events WHERE outcome = 'failed'")
    assert stored(to) == set()


def test_the_operators_own_account_purges_reaps_and_collects(to, operator, tmp_path, catalog_url):
    one, two = add(to, tmp_path, "one", [1, 2, 3, 4]), add(to, tmp_path, "two", [4])
    add(to, tmp_path, "three", [9], until="upload_disk")
    deleting.delete(to, one)
    with operator.catalog.transaction() as connection:
        connection.execute("UPDATE images SET purge_after = now() - interval '1 second' WHERE id = %s", (one,))
        connection.execute("UPDATE leases SET reap_at = now() - interval '1 second'")
        connection.execute("INSERT INTO tags VALUES (%s, 'late', 'x')", (two,))
    with Catalog(projects.credentials(operator.catalog, catalog_url, ""), None) as catalog:
        account = dataclasses.replace(to, catalog=catalog)
        purged = deleting.purge_due(account)["images"]
        reaped = reap.reap(account)["images"]
        result = collect.collect(account)
        with pytest.raises(CatalogRefusedError, match="owner"), catalog.transaction() as connection:
            rebuilding._project(connection, "new")

    assert [found["outcome"] for found in purged] == ["purged"]
    assert len(reaped) == 1
    assert (result["packs"], result["compacted"], result["sidecars"]) == (1, 1, 1)
    assert operations.content(to, two) == content_of([4])


def test_a_store_that_goes_away_is_an_error_and_the_next_collection_ends_it(to, operator, tmp_path):
    one = add(to, tmp_path, "one", [1, 2, 3, 4, 5])
    two = add(to, tmp_path, "two", [4])
    remove(to, one)
    for calls in range(12):
        broken = operations.with_store(
            operator, faults.ScriptedStore(to.store, "O" * calls, "E", ("put", "get", "delete"))
        )
        try:
            collect.collect(broken)
        except UnavailableError:
            assert operations.content(to, two) == content_of([4])
        else:
            break
    assert calls > 3
    collect.collect(operator)
    assert_tidy(to, operator)


def test_killed_before_any_call_the_next_collection_ends_it(to, operator, tmp_path):
    """Unreferenced packs, a lost object, a sparse pack and a missing sidecar each time."""
    kept = []
    with killing.runner("darkroom.packs.TARGET_SIZE = 4 * 4096") as runner:
        for step in range(200):
            first = 100 * step + 1
            one = add(to, tmp_path, f"one{step}", range(first, first + 6), key="gold")
            two = add(to, tmp_path, f"two{step}", [first], key="gold")
            remove(to, one)
            to.store.put(f"images/{uuid4()}/disk-0", [b"x"], 1)
            to.store.delete(sidecar.object_key(UUID(two)))
            kept.append((two, first))
            if not runner.killed("collect.collect", step=step, operator=True):
                break
            assert operations.content(to, two) == content_of([first])
            collect.collect(operator)
            plan = collect.plan(operator.catalog, to.store)
            assert (plan.packs, plan.objects, plan.sparse, plan.sidecars) == ({}, {}, [], [])

    assert step > 20
    assert_tidy(to, operator)
    for image, first in kept:
        assert operations.content(to, image) == content_of([first])


def test_compaction_counts_bytes_not_chunks():
    sparse = compaction.Sparse(1, uuid4(), 1, uuid4(), "p", (0, 10, 20), 1000, "110")

    assert (sparse.live_size, sparse.dead_size) == (20, 980)
