"""Quotas: reserved before bytes move, released on every outcome, kept by the database."""

import subprocess
import sys
import threading

import pytest

from darkroom import creation, importing, packs, quotas, sharing
from darkroom.catalog import Catalog, QuotaError, create_project, images
from darkroom.importing import ImportRequest
from darkroom.model import CHUNK_SIZE
from tests import operations

KILLED = """
import os, sys
from darkroom import upload
from darkroom.settings import Settings
from darkroom.systems import open_systems
from tests import operations
with open_systems(Settings()) as to:
    upload._encoded = lambda *_: os.kill(os.getpid(), 9)
    operations.import_image(to, sys.argv[1], name="killed")
"""


@pytest.fixture
def operator(to, catalog_url):
    with Catalog(catalog_url, None) as found:
        yield found


@pytest.fixture
def limit(operator):
    return lambda **limits: quotas.change(operator, "default", limits)


def use(to):
    return {name: row["use"] for name, row in quotas.shown(to.catalog, "default").items()}


def fail(to, name, error):
    """What the flow does with an import that is refused."""
    creation.fail(to, str(images.find(to.catalog, name)["id"]), error)


def test_without_a_quota_only_members_are_limited(to, raw_disk):
    operations.import_image(to, raw_disk)

    shown = quotas.shown(to.catalog, "default")
    assert {name: row["quota"] for name, row in shown.items()} == {
        **dict.fromkeys(("images", "virtual_size", "stored_size", "operations")),
        "members": 256,
    }
    assert shown["images"]["use"] == 1
    assert shown["virtual_size"]["use"] == raw_disk.stat().st_size
    assert 0 < shown["stored_size"]["use"] < raw_disk.stat().st_size
    assert shown["operations"]["use"] == 0


def test_one_image_too_many_is_named_with_quota_use_and_need(to, raw_disk, limit):
    limit(images=1)
    operations.import_image(to, raw_disk)

    with pytest.raises(QuotaError, match=r"quota: images: .* at most 1, found 1 in use and 1 more") as caught:
        operations.import_image(to, raw_disk, name="two")
    assert not caught.value.retryable
    with pytest.raises(images.ImageMissingError):
        images.find(to.catalog, "two")
    assert use(to)["images"] == 1


def test_the_virtual_size_is_refused_when_it_is_known(to, raw_disk, limit):
    limit(virtual_size=raw_disk.stat().st_size - 1)

    with pytest.raises(QuotaError, match="virtual size") as caught:
        operations.import_image(to, raw_disk)
    assert operations.objects(to) == {}
    fail(to, "one", caught.value)
    assert use(to) == dict.fromkeys(quotas.QUOTAS, 0)


def test_stored_bytes_are_reserved_before_any_moves_and_corrected_at_the_end(to, raw_disk, limit):
    chunks_of_data = operations.import_image(to, raw_disk, name="plain")
    stored = use(to)["stored_size"]
    allocated = images.get(to.catalog, chunks_of_data)["allocated_size"]
    limit(stored_size=stored + allocated)  # the reservation is for what might be stored, and a little more
    before = operations.objects(to)

    with pytest.raises(QuotaError, match="stored size") as caught:
        operations.import_image(to, raw_disk, name="sealed", key="gold")
    assert {key for key in operations.objects(to) if "/packs/" in key} == {key for key in before if "/packs/" in key}
    fail(to, "sealed", caught.value)
    assert use(to)["stored_size"] == stored

    limit(stored_size=stored + 2 * raw_disk.stat().st_size)
    sealed = operations.import_image(to, raw_disk, name="sealed", key="gold")
    assert use(to)["stored_size"] == stored + images.get(to.catalog, sealed)["new_size"]


def test_a_killed_upload_keeps_its_reservation_until_it_is_gone_on_with_or_killed(to, tmp_path, limit):
    disk = tmp_path / "disk"
    disk.write_bytes(b"a line of text\n" * 200_000)
    reserved = -(-disk.stat().st_size // CHUNK_SIZE) * packs.MAX_STORED
    limit(stored_size=reserved)

    subprocess.run([sys.executable, "-c", KILLED, disk], check=False)
    assert use(to)["stored_size"] == reserved
    with pytest.raises(QuotaError):
        operations.import_image(to, disk, name="other")
    fail(to, "other", caught := QuotaError("stored size"))
    image = operations.import_image(to, disk, name="killed")

    assert use(to)["stored_size"] == images.get(to.catalog, image)["new_size"] > 0
    assert caught.code == "quota"


def test_imports_at_once_are_within_the_quota_of_operations(to, raw_disk, limit):
    limit(operations=1)
    operations.import_image(to, raw_disk, until="register")

    with pytest.raises(QuotaError, match="operations"):
        importing.register(to, ImportRequest(source=str(raw_disk), name="two"))
    operations.import_image(to, raw_disk)
    operations.import_image(to, raw_disk, name="two")


def test_a_dead_process_does_not_hold_an_operation_for_long(to, raw_disk, limit):
    limit(operations=1)
    operations.import_image(to, raw_disk, until="register")
    with to.catalog.transaction() as connection:
        connection.execute("UPDATE leases SET expires_at = now() - interval '1 second'")

    operations.import_image(to, raw_disk, name="two")


def test_a_race_for_the_last_image_has_one_winner(to, limit):
    limit(images=3)
    outcomes = []

    def make(number):
        try:
            with to.catalog.transaction() as connection:
                images.create(connection, {"name": f"i{number}", "type": "data", "source": "", "request": {}}, {})
            outcomes.append("made")
        except QuotaError:
            outcomes.append("refused")

    threads = [threading.Thread(target=make, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["made"] * 3 + ["refused"] * 5


def test_what_comes_back_counts_again(to, raw_disk, limit):
    image = operations.import_image(to, raw_disk)
    with to.catalog.transaction() as connection:
        images.move(connection, images.get(to.catalog, image)["id"], "deleted")
    limit(images=1)
    operations.import_image(to, raw_disk, name="two")

    with pytest.raises(QuotaError, match="images"), to.catalog.transaction() as connection:
        images.move(connection, images.get(to.catalog, image)["id"], "active")


def test_a_quota_below_what_is_used_stops_growth_alone(to, raw_disk, limit):
    image = operations.import_image(to, raw_disk)
    limit(images=0, virtual_size=0, stored_size=0)

    with to.catalog.transaction() as connection:
        images.update(connection, images.get(to.catalog, image)["id"], description="still mine to change")
    assert operations.content(to, image) == raw_disk.read_bytes()
    with pytest.raises(QuotaError):
        operations.import_image(to, raw_disk, name="two")
    limit(images=None, virtual_size=None, stored_size=None)
    operations.import_image(to, raw_disk, name="two")


def test_an_image_has_no_more_members_than_allowed(to, raw_disk, operator, limit):
    operations.import_image(to, raw_disk)
    with operator.transaction() as connection:
        for name in ("a", "b", "c"):
            create_project(connection, name)
    limit(members=2)
    sharing.share(to, "one", "a")
    sharing.share(to, "one", "b")

    with pytest.raises(QuotaError, match=r"members: .* at most 2, found 2 in use and 1 more"):
        sharing.share(to, "one", "c")
    sharing.share(to, "one", "b")
    sharing.unshare(to, "one", "a")
    sharing.share(to, "one", "c")


def test_a_project_cannot_change_its_quotas(to, limit):
    limit(images=1)

    with to.catalog.transaction() as connection:
        assert [row["images"] for row in connection.execute("SELECT * FROM quotas")] == [1]
    for statement in ("UPDATE quotas SET images = 9", "DELETE FROM quotas", "INSERT INTO quotas DEFAULT VALUES"):
        with pytest.raises(Exception, match="permission denied"), to.catalog.transaction() as connection:
            connection.execute(statement)
