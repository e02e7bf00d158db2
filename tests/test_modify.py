"""Modify: each rule, versions, many images at once, and nothing half done."""

import itertools
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from darkroom import modifying, rules, sidecar
from darkroom.catalog import images
from darkroom.model import GiB
from darkroom.modifying import Changes
from tests import operations

KILLED = """
import os, sys
from darkroom import changing, modifying
from darkroom.settings import Settings
from darkroom.systems import open_systems
at = sys.argv[1]
def before(module, name):
    real = getattr(module, name)
    def call(*arguments, **options):
        if name == at:
            os.kill(os.getpid(), 9)
        return real(*arguments, **options)
    setattr(module, name, call)
before(changing.images, "update")
before(changing.images, "record_event")
before(changing.sidecar, "write")
with open_systems(Settings()) as to:
    modifying.modify(to, ["one"], modifying.Changes({"name": "web-1", "min_ram": 512}, version=1))
    os.kill(os.getpid(), 9)
"""


@pytest.fixture
def image(to, raw_disk):
    return operations.import_image(to, raw_disk)


_numbers = itertools.count()


def modify(to, *references, version=0, set=(), unset=(), **values):
    return modifying.modify(to, references, Changes(values, dict(set), unset, version))


def row_of(to, image):
    return images.get(to.catalog, image)


@pytest.fixture
def row(shared_to):
    """The id of an image of its own, without data, for each test."""
    return operations.image_row(shared_to, f"row-{next(_numbers)}")


def edit(to, image, columns):
    """Change columns as a program other than ours would."""
    size = columns.pop("disk", None)
    with to.catalog.transaction() as connection:
        if size:
            connection.execute("UPDATE disks SET virtual_size = %s WHERE image_id = %s", (size, image))
        if columns:
            images.update(connection, image, **columns)


def events(to, operation):
    with to.catalog.transaction() as connection:
        query = "SELECT outcome, reason FROM events WHERE operation = %s AND outcome = 'done' ORDER BY id"
        return [(row["outcome"], row["reason"]) for row in connection.execute(query, (operation,))]


def test_all_that_can_be_changed_is_changed_at_once_and_logged(to, image):
    settings = {"min_ram": 512, "max_ram": 1024, "min_disk": 10, "multiqueue": True, "sriov": True, "boot_mode": "uefi"}
    written = {"name": "web-1", "description": "a web server", "protected": True, "family": "web"}

    (result,) = modify(to, "one", **written, **settings, set={"owner": "web team"})

    row = row_of(to, image)
    assert {name: row[name] for name in written} == written
    assert {name: row["properties"][name] for name in settings} == settings
    assert row["properties"]["custom"] == {"owner": "web team"}
    assert result == {"image": image, "name": "web-1", "outcome": "changed", "version": 2}
    changed = "name, description, protected, family, boot_mode, custom, max_ram, min_disk, min_ram, multiqueue, sriov"
    assert events(to, "modify") == [("done", changed)]
    assert sidecar.read(to.store, row["id"])["image"]["name"] == "web-1"


def test_what_is_taken_away_is_gone(to, image):
    modify(to, image, description="x", min_ram=512, boot_mode="bios", family="web", set={"a": "1", "b": "2"})
    nothing = dict.fromkeys(("description", "min_ram", "boot_mode", "family"))
    modify(to, image, **nothing, unset=["a", "b", "never there"])

    row = row_of(to, image)
    assert (row["description"], row["family"]) == ("", None)
    assert not {"min_ram", "boot_mode", "custom"} & row["properties"].keys()


def test_what_the_import_found_stays(to, image):
    before = row_of(to, image)["properties"]["source"]
    modify(to, image, min_ram=512)

    assert row_of(to, image)["properties"]["source"] == before


ARM = {"properties": {"architecture": "aarch64"}}


@pytest.mark.parametrize(
    ("present", "change", "code"),
    [
        ({}, {"name": "a/b"}, "name-invalid"),
        ({}, {"name": ""}, "name-invalid"),
        ({}, {"description": "a\nb"}, "description-invalid"),
        ({}, {"description": "<b>"}, "description-invalid"),
        ({}, {"family": "a b"}, "family-invalid"),
        ({}, {"min_ram": -1}, "memory-invalid"),
        ({}, {"max_ram": rules.MAX_RAM + 1}, "memory-invalid"),
        ({"properties": {"max_ram": 512}}, {"min_ram": 1024}, "memory-invalid"),
        ({"properties": {"min_ram": 512}}, {"max_ram": 256}, "memory-invalid"),
        ({}, {"min_disk": 1025}, "min-disk-invalid"),
        ({"type": "data"}, {"min_disk": 2049}, "min-disk-invalid"),
        ({"disk": 2 * GiB + 1}, {"min_disk": 2}, "min-disk-too-small"),
        ({"type": "full"}, {"min_disk": 1025}, "min-disk-invalid"),
        ({}, {"boot_mode": "openfirmware"}, "boot-mode-invalid"),
        (ARM, {"boot_mode": "bios"}, "boot-mode-invalid"),
        ({"type": "data"}, {"boot_mode": "uefi"}, "data-disk"),
        ({"type": "data"}, {"multiqueue": True}, "data-disk"),
        ({"type": "data"}, {"sriov": True}, "data-disk"),
        ({}, {"set": {"Upper": "x"}}, "property-invalid"),
        ({}, {"set": {"": "x"}}, "property-invalid"),
        ({}, {"set": {"k" * 65: "x"}}, "property-invalid"),
        ({}, {"set": {"k": "v" * 256}}, "property-invalid"),
        ({}, {"set": {"k": "two\nlines"}}, "property-invalid"),
        ({}, {"set": {f"k{number}": "" for number in range(65)}}, "property-invalid"),
        ({}, {"set": {"min_ram": "1"}}, "property-reserved"),
        ({}, {"set": {"architecture": "x86_64"}}, "property-reserved"),
        ({"status": "deactivated"}, {"description": "x"}, "status"),
        ({"status": "saving"}, {"description": "x"}, "status"),
        ({"status": "killed"}, {"description": "x"}, "status"),
    ],
)
def test_each_rule_refuses_and_nothing_has_changed(shared_to, row, present, change, code):
    if present:
        edit(shared_to, row, dict(present))
    before, logged = row_of(shared_to, row), events(shared_to, "modify")
    good = {} if "description" in change else {"description": "not to be seen"}

    (result,) = modify(shared_to, row, **good, **change)

    assert (result["outcome"], result["code"]) == ("refused", code)
    assert result["message"].startswith(f"{code}: ")
    assert row_of(shared_to, row) == before
    assert events(shared_to, "modify") == logged


@pytest.mark.parametrize(
    ("present", "change"),
    [
        ({"disk": 2 * GiB + 1}, {"min_disk": 3}),
        ({"type": "full"}, {"boot_mode": "uefi"}),
        (ARM, {"boot_mode": "uefi"}),
        ({"type": "data"}, {"min_disk": 2048}),
        ({"type": "data"}, {"multiqueue": False}),
        ({}, {"set": {"k.a:b-c_9": "v" * 255}}),
        ({}, {"set": {f"k{number}": "" for number in range(64)}}),
        ({"properties": {"min_ram": 512}}, {"min_ram": 1024, "max_ram": 1024}),
    ],
)
def test_what_is_just_within_a_rule_is_changed(shared_to, row, present, change):
    edit(shared_to, row, {"description": "before", **present})

    assert modify(shared_to, row, **change)[0]["outcome"] == "changed"


def test_a_taken_name_is_refused(to, image, raw_disk):
    operations.import_image(to, raw_disk, name="two")

    assert modify(to, "two", name="one")[0]["code"] == "name-taken"
    assert images.find(to.catalog, "one")["id"] == images.get(to.catalog, image)["id"]


def test_another_version_is_a_conflict_and_the_same_change_again_is_none(to, image):
    version = row_of(to, image)["version"]
    assert modify(to, image, version=version, min_ram=512)[0]["version"] == version + 1

    assert modify(to, image, version=version, min_ram=1024)[0]["code"] == "version-conflict"
    assert modify(to, image, version=version, min_ram=512)[0]["outcome"] == "unchanged"
    assert row_of(to, image)["version"] == version + 1
    assert len(events(to, "modify")) == 1


def test_of_many_editors_of_one_version_one_wins(to, image):
    start = threading.Barrier(6)

    def edit_it(number):
        start.wait()
        return modify(to, image, version=1, min_ram=number)[0]

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(edit_it, range(1, 7)))

    (winner,) = [number for number, result in enumerate(results, 1) if result["outcome"] == "changed"]
    assert {result["code"] for result in results if result["outcome"] == "refused"} == {"version-conflict"}
    assert row_of(to, image)["properties"]["min_ram"] == winner


def test_editors_of_different_properties_lose_nothing(to, image):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: modify(to, image, set={f"k{number}": "v"}), range(24)))

    assert len(row_of(to, image)["properties"]["custom"]) == 24
    assert row_of(to, image)["version"] == 25


def test_two_good_changes_cannot_break_a_rule_together(to, image):
    with ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            modify(to, image, min_ram=None, max_ram=None)
            list(pool.map(lambda change: modify(to, image, **change), [{"min_ram": 1024}, {"max_ram": 512}]))
            assert len({"min_ram", "max_ram"} & row_of(to, image)["properties"].keys()) == 1


def test_many_images_have_a_result_each(to, image, raw_disk):
    two = operations.import_image(to, raw_disk, name="two")
    edit(to, two, {"disk": 20 * GiB})

    results = modify(to, "one", "nowhere", "two", min_disk=10)

    assert [(result["name"], result["outcome"], result.get("code")) for result in results] == [
        ("one", "changed", None),
        ("nowhere", "refused", "image-not-found"),
        ("two", "refused", "min-disk-too-small"),
    ]
    assert json.loads(json.dumps(results)) == results


@pytest.mark.parametrize("at", ["update", "record_event", "write", "the end"])
def test_killed_in_any_step_and_run_again_it_is_done(to, image, at):
    child = subprocess.run([sys.executable, "-c", KILLED, at], check=False)
    assert child.returncode == -9
    row = row_of(to, image)
    assert (row["name"], row["version"]) == (("web-1", 2) if at == "the end" else ("one", 1))

    modify(to, image, name="web-1", min_ram=512, version=1)

    assert (row_of(to, image)["name"], row_of(to, image)["version"]) == ("web-1", 2)
    assert sidecar.read(to.store, row["id"])["image"]["name"] == "web-1"
    assert len(events(to, "modify")) == 1


def test_every_change_of_an_active_image_has_a_version_of_its_own(to, image, raw_disk):
    assert row_of(to, image)["version"] == 1
    for number, columns in enumerate(
        [{"status": "deactivated"}, {"status": "active"}, {"protected": True}, {"family": "f"}, {"name": "n"}], 2
    ):
        edit(to, image, columns)
        assert row_of(to, image)["version"] == number
    edit(to, image, {"checked_at": "2026-01-01"})
    assert row_of(to, image)["version"] == 6
