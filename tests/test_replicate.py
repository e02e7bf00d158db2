"""Replicate: a copy of an image, which stands alone."""

import dataclasses
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from darkroom import check, creation, deleting, inbox, packs, reading, rekeying, replicating, sharing, systems, upload
from darkroom.catalog import Catalog, create_project, images, uploads
from darkroom.errors import ConflictError, DarkroomError
from darkroom.keys import KeyDisabledError, KeyMissingError
from darkroom.model import CHUNK_SIZE, GiB, MiB
from darkroom.reading import NotReadableError
from darkroom.replicating import CopyDiffersError, KeyChoiceError, SourceGoneError
from darkroom.settings import Settings
from tests import killing, operations, test_creation
from tests.conftest import make_disk
from tests.operations import quiet


@pytest.fixture
def disk(tmp_path):
    """A disk of many runs, where packs are small."""
    path = make_disk(tmp_path / "disk.raw", size=16 * MiB + 300 * 1024, seed=5)
    with open(path, "r+b") as file:
        file.write(random.Random(5).randbytes(8 * MiB))
    return path


@pytest.fixture
def small_packs(monkeypatch):
    monkeypatch.setattr(packs, "TARGET_SIZE", 4 * CHUNK_SIZE)
    monkeypatch.setattr(upload, "_BATCH", 2)


def row(to, reference):
    return images.find(to.catalog, reference)


def packs_in(objects):
    return {key for key in objects if "/packs/" in key}


def well(to, reference):
    return check.check_image(to, row(to, reference), quiet)["findings"] == []


def named(to, name):
    """The row of this name, whatever its status."""
    with to.catalog.transaction() as connection:
        return connection.execute("SELECT * FROM images WHERE name = %s", (name,)).fetchone()


@pytest.mark.parametrize("key", ["", "gold"])
def test_within_a_scope_no_data_is_written_and_all_that_describes_it_is_copied(to, disk, key):
    tags = {"team": "web", "tier": "1"}
    source = operations.import_image(to, disk, key=key, tags=tags, description="the first", min_ram=512)
    with to.catalog.transaction() as connection:
        connection.execute("UPDATE disks SET profile = '{0,3,2}' WHERE image_id = %s", (source,))
    before = operations.objects(to)

    copy = operations.replicate(to, "one")

    assert sorted(set(operations.objects(to)) - set(before)) == [f"images/{copy}/disk-0", f"images/{copy}/image.json"]
    assert operations.content(to, copy) == disk.read_bytes()
    old, new = row(to, source), row(to, copy)
    same = ("type", "description", "key_name", "scope_id", "source_format", "virtual_size", "stored_size")
    assert [old[name] for name in same] == [new[name] for name in same]
    assert (new["content_digest"], new["new_size"]) == (old["content_digest"], 0)
    assert new["properties"] == {**old["properties"], "replicated_from": source}
    details = [images.detail(to.catalog, image["id"]) for image in (old, new)]
    assert details[0]["tags"] == details[1]["tags"] == tags
    for fact in ("partitions", "profile", "virtual_size"):
        assert details[0]["disks"][0][fact] == details[1]["disks"][0][fact]
    assert well(to, copy)


@pytest.mark.parametrize(
    ("key", "choice", "expected"),
    [
        ("", {"key": "gold"}, "gold"),
        ("gold", {"plain": True}, None),
        ("gold", {"key": "silver"}, "silver"),
        ("gold", {"key": "gold"}, "gold"),
        ("", {"plain": True}, None),
    ],
)
def test_from_any_key_to_any_other_the_content_is_the_same(to, disk, qemu_img, tmp_path, key, choice, expected):
    to.keys.create("silver")
    source = operations.import_image(to, disk, key=key)

    copy = operations.replicate(to, source, **choice)
    operations.export_image(to, copy, tmp_path / "out.qcow2", "qcow2")

    assert row(to, copy)["key_name"] == expected
    assert row(to, copy)["content_digest"] == row(to, source)["content_digest"]
    assert "identical" in qemu_img("compare", "-f", "raw", "-F", "qcow2", disk, tmp_path / "out.qcow2")
    assert well(to, copy)


def test_a_copy_under_another_key_needs_nothing_of_the_first_key(to_kms, disk):
    to_kms.keys.create("silver")
    source = operations.import_image(to_kms, disk, key="gold")
    copy = operations.replicate(to_kms, source, key="silver")

    to_kms.keys.set_enabled("gold", False)

    assert operations.content(to_kms, copy) == disk.read_bytes()
    assert row(to_kms, copy)["new_size"] > 8 * MiB
    with pytest.raises(KeyDisabledError, match="gold"):
        operations.content(to_kms, source)


def test_after_a_rekey_a_copy_is_under_the_new_key_with_data_of_its_own(to, disk):
    to.keys.create("silver")
    source = operations.import_image(to, disk, key="gold")
    rekeying.rekey(to, source, "silver")

    copy = operations.replicate(to, source)

    assert row(to, copy)["key_name"] == "silver"
    assert row(to, copy)["scope_id"] != row(to, source)["scope_id"]
    assert operations.content(to, copy) == disk.read_bytes()


def test_in_a_bucket(catalog_url, bucket, monkeypatch, disk):
    monkeypatch.setenv("DARKROOM_STORE_URL", f"s3://{bucket}/darkroom")
    with systems.open_systems(Settings()) as to:
        to.keys.create("gold")
        source = operations.import_image(to, disk, key="gold")
        for name, choice in (("linked", {}), ("plain", {"plain": True})):
            copy = operations.replicate(to, source, name, **choice)
            assert operations.content(to, copy) == disk.read_bytes()
            assert well(to, copy)


@pytest.mark.parametrize("choice", [{}, {"plain": True}])
def test_several_disks_are_copied_each(to, choice):
    source = test_creation.create(to, test_creation.DISKS)

    copy = operations.replicate(to, source, **choice)

    assert list(test_creation.read(to, copy)) == test_creation.DISKS
    assert row(to, copy)["type"] == "full"
    assert row(to, copy)["content_digest"] == row(to, source)["content_digest"]
    assert well(to, copy)


@pytest.mark.parametrize("key", ["", "gold"])
def test_a_sparse_disk_of_many_pages(to, tmp_path, key):
    """More pages than are read at once, with and without chunks."""
    size, places = 300 * GiB, [n * 4 * GiB for n in (0, 1, 2, 5, 40, 73, 74)]
    with open(tmp_path / "sparse.raw", "wb") as file:
        file.truncate(size)
        for place in places:
            file.seek(place)
            file.write(b"%d" % place * 100)
    operations.import_image(to, tmp_path / "sparse.raw", key=key)

    copy = operations.replicate(to, "one")

    with reading.open_disk(to, row(to, copy)) as reader:
        assert {reader.read(place, 2048).rstrip(bytes(1)) for place in places} == {b"%d" % n * 100 for n in places}
    assert well(to, copy)


@pytest.mark.parametrize("choice", [{}, {"plain": True}])
@pytest.mark.parametrize("gone", ["source", "copy"])
def test_source_and_copy_do_not_need_each_other(to, disk, catalog_url, choice, gone):
    kept = {"source": operations.import_image(to, disk, key="gold")}
    kept["copy"] = operations.replicate(to, kept["source"], **choice)
    deleting.delete(to, kept[gone])
    deleting.purge(to, kept.pop(gone))
    (left,) = kept.values()

    unused = operations.collector_plan(to, catalog_url).packs
    for key in packs_in(operations.objects(to)):
        if any(str(pack) in key for pack in unused):
            to.store.delete(key)

    assert operations.content(to, left) == disk.read_bytes()
    assert well(to, left)


def test_what_cannot_be_copied_is_refused_before_there_is_a_row(to, disk):
    image = operations.import_image(to, disk, key="gold")
    to.keys.create("silver")
    to.keys.set_enabled("silver", False)
    for kind, choice in (
        (KeyMissingError, {"key": "bronze"}),
        (KeyDisabledError, {"key": "silver"}),
        (KeyChoiceError, {"key": "gold", "plain": True}),
        (images.NameTakenError, {"name": "one"}),
        (images.ImageMissingError, {"source": "nowhere"}),
    ):
        with pytest.raises(kind):
            operations.replicate(to, **{"source": image, **choice})
    to.keys.set_enabled("gold", False)
    with pytest.raises(KeyDisabledError, match="gold"):
        operations.replicate(to, image, plain=True)
    with to.catalog.transaction() as connection:
        images.move(connection, image, "deactivated")
    with pytest.raises(NotReadableError):
        operations.replicate(to, image, plain=True)

    with to.catalog.transaction() as connection:
        assert connection.execute("SELECT count(*) AS n FROM images").fetchone()["n"] == 1


def test_the_same_again_finds_the_copy_and_another_of_the_name_is_a_conflict(to, disk):
    operations.import_image(to, disk, key="gold")
    copy = operations.replicate(to, "one")
    before = operations.objects(to)

    assert operations.replicate(to, "one") == copy
    with pytest.raises(images.NameTakenError):
        operations.replicate(to, "one", plain=True)
    assert operations.objects(to) == before


@pytest.mark.parametrize("choice", [{}, {"plain": True}])
def test_two_at_once_make_one_copy(to, disk, choice):
    source = operations.import_image(to, disk, key="gold")

    def attempt(_):
        try:
            return operations.replicate(to, source, **choice)
        except ConflictError:
            return None

    with ThreadPoolExecutor(3) as pool:
        made = set(pool.map(attempt, range(3))) - {None}
    made.add(operations.replicate(to, source, **choice))

    assert len(made) == 1
    assert operations.content(to, made.pop()) == disk.read_bytes()


class Interrupting:
    """A store that calls `then` once, when so many packs have been written."""

    def __init__(self, store, puts, then):
        self._store, self._left, self._then = store, puts, then

    def __getattr__(self, name):
        return getattr(self._store, name)

    def put(self, key, parts, size):
        if "/packs/" in key:
            self._left -= 1
            if self._left == 0:
                self._then()
        self._store.put(key, parts, size)


def assert_nothing_of_it_is_left(to, catalog_url, error):
    copy = named(to, "copy")
    creation.fail(to, str(copy["id"]), error)
    failed = named(to, "copy")
    assert (failed["status"], failed["failure"]["code"]) == ("killed", error.code)
    with to.catalog.transaction() as connection:
        for table in ("refs", "wraps", "leases", "runs"):
            left = connection.execute(f"SELECT 1 FROM {table} WHERE image_id = %s", (copy["id"],)).fetchall()
            assert left == [], table
    assert not list(to.store.list(f"images/{copy['id']}/"))
    assert operations.collector_plan(to, catalog_url).objects == {}


@pytest.mark.parametrize("how", ["deleted", "purged", "deactivated"])
def test_a_source_that_goes_in_the_middle_ends_the_copy(to, disk, catalog_url, small_packs, how):
    source = operations.import_image(to, disk, key="gold")

    def go():
        if how == "deactivated":
            with to.catalog.transaction() as connection:
                images.move(connection, source, "deactivated")
            return
        deleting.delete(to, source)
        if how == "purged":
            deleting.purge(to, source)
            for key in packs_in(operations.objects(to)):
                if row(to, source)["scope_id"] and key in before:
                    to.store.delete(key)

    before = operations.objects(to)
    with pytest.raises(SourceGoneError) as caught:
        operations.replicate(operations.with_store(to, Interrupting(to.store, 2, go)), source, plain=True)

    assert_nothing_of_it_is_left(to, catalog_url, caught.value)


@pytest.mark.parametrize("until", ["register", "add_disks", "create_data_key"])
def test_a_source_that_goes_before_its_packs_are_shared_ends_the_copy(to, disk, catalog_url, until):
    source = operations.import_image(to, disk, key="gold")
    copy = operations.replicate(to, source, until=until)
    deleting.delete(to, source)

    with pytest.raises(SourceGoneError) as caught:
        replicating.copy_disks(to, copy, quiet)

    assert_nothing_of_it_is_left(to, catalog_url, caught.value)


def test_a_pass_that_takes_long_looks_after_its_source(to, disk, small_packs, monkeypatch):
    monkeypatch.setattr(replicating, "_LOOK", 0)
    source = operations.import_image(to, disk, key="gold")
    put = []
    store = Interrupting(to.store, 1, lambda: deleting.delete(to, source))
    store.put = lambda key, parts, size: put.append(key) or Interrupting.put(store, key, parts, size)

    with pytest.raises(SourceGoneError):
        operations.replicate(operations.with_store(to, store), source, plain=True)

    assert not [key for key in put if key.startswith("images/")]


@pytest.mark.parametrize("name", ["gold", "silver"])
def test_a_key_that_is_disabled_in_the_middle_ends_the_copy_at_its_next_use(to, disk, catalog_url, small_packs, name):
    """The pass itself goes on with the keys that it has."""
    to.keys.create("silver")
    source = operations.import_image(to, disk, key="gold")
    store = Interrupting(to.store, 2, lambda: to.keys.set_enabled(name, False))
    other = operations.with_store(to, store)
    if name == "gold":
        copy = operations.replicate(other, source, key="silver")
        assert operations.content(to, copy) == disk.read_bytes()
        return
    with pytest.raises(KeyDisabledError, match="silver") as caught:
        operations.replicate(other, source, key="silver")
    assert_nothing_of_it_is_left(to, catalog_url, caught.value)


def test_a_copy_with_another_content_does_not_become_active(to, disk, catalog_url):
    source = operations.import_image(to, disk, key="gold")
    with to.catalog.transaction() as connection:
        images.update(connection, source, content_digest=bytes(32))

    with pytest.raises(CopyDiffersError) as caught:
        operations.replicate(to, source, plain=True)
    assert_nothing_of_it_is_left(to, catalog_url, caught.value)


@pytest.mark.parametrize("choice", [{}, {"plain": True}])
def test_a_damaged_source_is_told_and_gives_no_copy(to, disk, catalog_url, choice):
    source = operations.import_image(to, disk, key="gold")
    key = f"images/{source}/disk-0"
    data = bytearray(to.store.get(key))
    data[40] ^= 1
    to.store.put(key, [bytes(data)], len(data))

    with pytest.raises(DarkroomError) as caught:
        operations.replicate(to, source, **choice)

    assert caught.value.code == "manifest-invalid"
    assert_nothing_of_it_is_left(to, catalog_url, caught.value)


@pytest.fixture
def acme(to, catalog_url):
    """The systems of another project."""
    with Catalog(catalog_url, None) as operator, operator.transaction() as connection:
        create_project(connection, "acme")
    with systems.open_systems(dataclasses.replace(Settings(), project="acme")) as found:
        yield found


def share(to, member, image):
    sharing.share(to, image, "acme")
    sharing.accept(member, image)


@pytest.mark.parametrize(
    ("key", "choice", "expected"), [("", {}, None), ("", {"key": "own"}, "own"), ("gold", {}, "own")]
)
def test_a_member_copies_what_it_accepted_and_keeps_the_copy(to, acme, disk, key, choice, expected):
    """Encrypted as the source is: under the key by which the member reads it."""
    acme.keys.create("own")
    inbox.move(acme.catalog, acme.keys, "own")
    source = operations.import_image(to, disk, key=key)
    with pytest.raises(images.ImageMissingError):
        operations.replicate(acme, source)
    share(to, acme, source)
    if key:
        to.keys.set_enabled(key, False)

    copy = operations.replicate(acme, source, **choice)
    sharing.unshare(to, source, "acme")

    assert operations.content(acme, copy) == disk.read_bytes()
    assert row(acme, copy)["key_name"] == expected
    assert row(acme, copy)["properties"]["replicated_from"] == source
    assert row(acme, copy)["scope_id"] != row(to, source)["scope_id"]
    with pytest.raises(images.ImageMissingError):
        row(to, copy)
    with pytest.raises(images.ImageMissingError):
        operations.replicate(acme, source, "second")


def test_unsharing_in_the_middle_ends_the_copy(to, acme, disk, catalog_url, small_packs):
    source = operations.import_image(to, disk)
    share(to, acme, source)
    store = Interrupting(to.store, 2, lambda: sharing.unshare(to, source, "acme"))

    with pytest.raises(SourceGoneError) as caught:
        operations.replicate(operations.with_store(acme, store), source)

    assert_nothing_of_it_is_left(acme, catalog_url, caught.value)


@pytest.fixture
def runner(to):
    with killing.runner() as found:
        yield found


@pytest.mark.parametrize(("plain", "stride"), [(False, 9), (True, 14)])
def test_killed_before_any_call_and_run_again_there_is_one_whole_copy(to, runner, catalog_url, tmp_path, plain, stride):
    disk = make_disk(tmp_path / "small.raw", size=3 * MiB)
    source = operations.import_image(to, disk, key="gold")
    step, killed = 0, True
    while killed:
        name = f"copy-{step}"
        killed = runner.killed("tests.operations.replicate", source, name, "", {"plain": plain}, step=step)
        unfinished = named(to, name)

        copy = operations.replicate(to, source, name, plain=plain)

        assert unfinished is None or str(unfinished["id"]) == copy
        assert operations.content(to, copy) == disk.read_bytes()
        assert well(to, copy)
        step += stride
    assert step > 5 * stride
    assert operations.collector_plan(to, catalog_url).objects == {}
    with to.catalog.transaction() as connection:
        assert connection.execute("SELECT 1 FROM leases").fetchall() == []


def test_nothing_that_was_recorded_before_a_kill_is_sent_again(to, disk, small_packs):
    source = operations.import_image(to, disk, key="gold")
    stop = Interrupting(to.store, 5, interrupt)
    with pytest.raises(KeyboardInterrupt):
        operations.replicate(operations.with_store(to, stop), source, plain=True)
    copy = named(to, "copy")["id"]
    before = uploads.finished_runs(to.catalog, copy, 0)
    assert before

    operations.replicate(to, source, plain=True, until="copy_disks")

    assert uploads.finished_runs(to.catalog, copy, 0)[: len(before)] == before
    assert operations.content(to, copy) == disk.read_bytes()


def interrupt():
    raise KeyboardInterrupt
