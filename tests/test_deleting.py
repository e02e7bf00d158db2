"""Delete, restore, purge, cancel: what each leaves, to whom, and after a kill."""

import dataclasses
import subprocess
import sys
import threading
from uuid import UUID, uuid4

import pytest

from darkroom import check, creation, deleting, sidecar
from darkroom.catalog import Catalog, create_project, images, listing
from darkroom.errors import MissingError
from darkroom.reading import NotReadableError
from tests import killing, operations
from tests.conftest import make_disk


@pytest.fixture
def image(to, raw_disk):
    return operations.import_image(to, raw_disk, key="gold", tags={"team": "web"})


@pytest.fixture
def operator(to, catalog_url):
    with Catalog(catalog_url, None) as catalog:
        yield dataclasses.replace(to, catalog=catalog)


def rows(to, query, *values):
    with to.catalog.transaction() as connection:
        return connection.execute(query, values).fetchall()


def without_times(row):
    return {name: value for name, value in row.items() if name not in ("updated_at", "version")}


def end_window(operator, image):
    with operator.catalog.transaction() as connection:
        connection.execute("UPDATE images SET purge_after = now() - interval '1 second' WHERE id = %s", (image,))


def hold(to, image):
    holder = uuid4()
    with to.catalog.transaction() as connection:
        connection.execute("INSERT INTO holds (image_id, holder) VALUES (%s, %s)", (image, holder))
    return holder


def test_a_deleted_image_is_invisible_and_unusable_and_its_name_is_free(to, image, raw_disk, tmp_path):
    result = deleting.delete(to, "one")

    assert (result["image"], result["outcome"]) == (image, "deleted")
    assert listing.page(to.catalog, listing.Filter()) == []
    with pytest.raises(images.ImageMissingError):
        images.find(to.catalog, "one")
    with pytest.raises(NotReadableError, match="deleted"):
        operations.export_image(to, image, tmp_path / "out.raw")
    assert operations.import_image(to, raw_disk, key="gold") != image
    assert sidecar.read(to.store, UUID(image))["image"]["status"] == "deleted"


def test_a_restored_image_is_as_it_was(to, image, raw_disk):
    before, detail = images.get(to.catalog, image), images.detail(to.catalog, UUID(image))
    deleting.delete(to, image)
    deleting.restore(to, "one")

    assert without_times(images.get(to.catalog, image)) == without_times(before)
    assert images.detail(to.catalog, UUID(image)) == detail
    assert operations.content(to, image) == raw_disk.read_bytes()
    assert check.check_image(to, images.get(to.catalog, image), operations.quiet)["findings"] == []


def test_a_deactivated_image_comes_back_deactivated(to, image):
    with to.catalog.transaction() as connection:
        images.move(connection, image, "deactivated")
    deleting.delete(to, image)
    deleting.restore(to, image)

    assert images.get(to.catalog, image)["status"] == "deactivated"


def test_a_name_that_was_taken_meanwhile_needs_another(to, image, raw_disk):
    deleting.delete(to, image)
    operations.import_image(to, raw_disk)
    with pytest.raises(images.NameTakenError, match="--name"):
        deleting.restore(to, image)
    assert images.get(to.catalog, image)["status"] == "deleted"

    deleting.restore(to, image, "again")

    assert str(images.find(to.catalog, "again")["id"]) == image


def test_of_two_deleted_images_of_a_name_one_is_chosen_by_id(to, image, raw_disk):
    deleting.delete(to, image)
    second = operations.import_image(to, raw_disk)
    deleting.delete(to, second)
    with pytest.raises(images.ImageAmbiguousError, match=second):
        deleting.restore(to, "one")

    assert deleting.restore(to, second)["image"] == second


def test_the_window_is_the_projects(to, image, operator):
    with operator.catalog.transaction() as connection:
        connection.execute("UPDATE projects SET restore_window = '3 hours'")
    deleting.delete(to, image)

    (row,) = rows(to, "SELECT purge_after - deleted_at = interval '3 hours' AS right FROM images")
    assert row["right"]


def test_only_what_is_due_is_purged(to, image, raw_disk, operator):
    other = operations.import_image(to, raw_disk, name="two", key="gold")
    deleting.delete(to, image)
    deleting.delete(to, other)
    end_window(operator, image)

    assert [found["image"] for found in deleting.purge_due(operator)["images"]] == [image]
    assert images.get(to.catalog, other)["status"] == "deleted"
    assert rows(to, "SELECT operation, outcome FROM events WHERE image_id = %s ORDER BY id DESC LIMIT 2", image) == [
        {"operation": "purge", "outcome": "done"},
        {"operation": "purge", "outcome": "started"},
    ]


def test_nothing_of_a_purged_image_is_left_but_its_log(to, image, catalog_url):
    deleting.delete(to, image)
    deleting.purge(to, image)

    with pytest.raises(images.ImageMissingError):
        images.get(to.catalog, image)
    for table in ("wraps", "refs", "disks", "tags", "sidecars"):
        assert rows(to, f"SELECT * FROM {table}") == []
    assert [key for key in operations.objects(to) if key.startswith("images/")] == []
    assert len(operations.collector_plan(to, catalog_url).packs) == 1
    assert rows(to, "SELECT * FROM events WHERE image_id = %s", image)


def test_once_its_wraps_are_gone_an_image_is_not_restored(to, image, monkeypatch):
    deleting.delete(to, image)
    monkeypatch.setattr(creation, "remove_rest", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        deleting.purge(to, image)

    with pytest.raises(deleting.PurgedError):
        deleting.restore(to, image)
    assert issubclass(deleting.PurgedError, MissingError)


def test_an_active_image_is_not_purged(to, image, raw_disk):
    with pytest.raises(images.StatusError, match="delete it first"):
        deleting.purge(to, image)

    assert operations.content(to, image) == raw_disk.read_bytes()


def test_a_held_image_is_kept_until_the_hold_goes(to, image, operator):
    holder = hold(to, image)
    deleting.delete(to, image)
    end_window(operator, image)

    assert deleting.purge(to, image)["outcome"] == "held"
    assert [found["outcome"] for found in deleting.purge_due(operator)["images"]] == ["held"]
    assert len(rows(to, "SELECT * FROM wraps")) == 1
    with to.catalog.transaction() as connection:
        connection.execute("DELETE FROM holds WHERE holder = %s", (holder,))
    assert [found["outcome"] for found in deleting.purge_due(operator)["images"]] == ["purged"]


def test_a_protected_image_is_not_deleted(to, image):
    with to.catalog.transaction() as connection:
        images.update(connection, UUID(image), protected=True)
    with pytest.raises(deleting.ProtectedError, match="--protect off"):
        deleting.delete(to, image)

    assert images.get(to.catalog, image)["status"] == "active"


def test_images_that_share_chunks_are_untouched(to, image, raw_disk, catalog_url):
    other = operations.import_image(to, raw_disk, name="two", key="gold")
    deleting.delete(to, image)
    deleting.purge(to, image)

    assert operations.collector_plan(to, catalog_url).packs == {}
    assert check.check_image(to, images.get(to.catalog, other), operations.quiet)["findings"] == []
    assert operations.content(to, other) == raw_disk.read_bytes()


def test_another_projects_image_does_not_exist(to, image, operator, catalog_url):
    with operator.catalog.transaction() as connection:
        create_project(connection, "stranger")
    with Catalog(catalog_url, "stranger") as catalog:
        stranger = dataclasses.replace(to, catalog=catalog)
        for operation in (deleting.delete, deleting.restore, deleting.purge, deleting.cancel):
            with pytest.raises(images.ImageMissingError):
                operation(stranger, image)
        with catalog.transaction() as connection:
            connection.execute("SELECT destroy_wraps(%s), remove_image(%s)", (image, image))

    assert len(rows(to, "SELECT * FROM wraps")) == 1


def test_a_project_cannot_remove_the_row_of_an_image_that_is_not_purged(to, image):
    with to.catalog.transaction() as connection:
        connection.execute("SELECT destroy_wraps(%s), remove_image(%s)", (image, image))

    assert images.get(to.catalog, image)["status"] == "active"
    assert len(rows(to, "SELECT * FROM wraps")) == 1


def test_an_image_that_is_being_created_is_cancelled_first(to, raw_disk, catalog_url):
    image = operations.import_image(to, raw_disk, key="gold", until="upload_disk")
    with pytest.raises(deleting.UnfinishedError, match="cancel"):
        deleting.delete(to, image)
    deleting.cancel(to, image)
    deleting.cancel(to, image)

    row = images.get(to.catalog, image)
    assert (row["status"], row["failure"]["code"]) == ("killed", "cancelled")
    for table in ("wraps", "refs", "leases", "runs"):
        assert rows(to, f"SELECT * FROM {table}") == []
    assert [key for key in operations.objects(to) if key.startswith("images/")] == []
    assert deleting.purge(to, image)["outcome"] == "purged"
    assert operations.import_image(to, raw_disk, key="gold") != image


def test_an_active_image_is_not_cancelled(to, image, raw_disk):
    with pytest.raises(images.StatusError):
        deleting.cancel(to, image)

    assert operations.content(to, image) == raw_disk.read_bytes()


def test_the_process_that_works_on_a_cancelled_image_ends_without_a_trace(to, raw_disk, catalog_url):
    """It is in the middle of its upload, in a process of its own."""
    script = """
import sys
from darkroom import packs
from darkroom.settings import Settings
from darkroom.systems import open_systems
from tests import killing, operations
from tests.conftest import make_disk
packs.TARGET_SIZE = 1 << 20
with open_systems(Settings()) as to:
    real = to.store.put
    def put(key, parts, size):
        real(key, parts, size)
        if "/packs/" in key:
            print("put", flush=True)
            sys.stdin.readline()
    to.store.put = put
    operations.import_image(to, sys.argv[1])
"""
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(raw_disk)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout.readline().startswith("put")  # of two threads, which may write one line together
    image = rows(to, "SELECT id::text FROM images")[0]["id"]
    deleting.cancel(to, image)
    _, errors = child.communicate("\n" * 100, timeout=120)

    assert "lease-lost" in errors
    assert images.get(to.catalog, image)["status"] == "killed"
    assert [key for key in operations.objects(to) if key.startswith("images/")] == []


def test_deleting_twice_or_at_once_is_deleting_once(to, image):
    threads = [threading.Thread(target=deleting.delete, args=(to, image)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    deleting.delete(to, image)

    assert len(rows(to, "SELECT * FROM events WHERE operation = 'delete'")) == 1


@pytest.mark.parametrize("operation", ["delete", "restore", "purge", "cancel"])
def test_killed_before_any_call_and_run_again_it_is_done(to, tmp_path, operation):
    """Before each call of the database and of the store in turn, until one run gets through."""
    disk = make_disk(tmp_path / "small.raw", size=2 << 20)
    expected = {"delete": "deleted", "restore": "active", "purge": None, "cancel": "killed"}[operation]
    with killing.runner() as runner:
        for step in range(100):
            until = "upload_disk" if operation == "cancel" else ""
            image = operations.import_image(to, disk, name=f"n{step}", key="gold", until=until)
            if operation in ("restore", "purge"):
                deleting.delete(to, image)
            if not runner.killed(f"deleting.{operation}", image, step=step):
                break
            finish(to, operation, image)
            assert_ended(to, image, expected)

    assert step > 3


def finish(to, operation, image):
    try:
        getattr(deleting, operation)(to, image)
    except images.ImageMissingError:
        assert operation == "purge"  # the row went with the last step


def assert_ended(to, image, status):
    found = rows(to, "SELECT status FROM images WHERE id = %s", image)
    kept = {f"images/{image}/disk-0", f"images/{image}/image.json"} if status in ("deleted", "active") else set()

    assert [row["status"] for row in found] == ([status] if status else [])
    assert {key for key in operations.objects(to) if image in key} == kept
    assert len(rows(to, "SELECT * FROM wraps WHERE image_id = %s", image)) == bool(kept)
    if status == "active":
        assert check.check_image(to, images.get(to.catalog, image), operations.quiet)["findings"] == []
