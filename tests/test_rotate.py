"""Rotate: all that is under a key comes under a new version of it, and the old one goes."""

import itertools
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from darkroom import keyring, keys, sidecar
from darkroom.catalog import Catalog, images, wraps
from darkroom.keys import KeyDisabledError, KeyMissingError
from tests import killing, operations
from tests.conftest import make_disk
from tests.operations import quiet

KILLED = """
import os, sys
from darkroom import keyring, systems
from darkroom.settings import Settings
at = sys.argv[1]
with systems.open_systems(Settings()) as to:
    def before(owner, name):
        real = getattr(owner, name)
        def call(*arguments, **options):
            if name == at:
                os.kill(os.getpid(), 9)
            return real(*arguments, **options)
        setattr(owner, name, call)
    before(to.keys, "begin_rotation")
    before(keyring, "_rewrap_batch")
    before(to.keys, "end_rotation")
    keyring.rotate(to, "gold", lambda *_: None)
    os.kill(os.getpid(), 9)
"""


@pytest.fixture(params=["local", "kms"])
def both(request):
    return request.getfixturevalue("to" if request.param == "local" else "to_kms")


@pytest.fixture
def disk(tmp_path):
    return make_disk(tmp_path / "small.raw", size=3 << 20)


def versions(to):
    """The versions under which the catalog and the store hold wraps of the key `gold`."""
    with to.catalog.transaction() as connection:
        kept = [row["wrapped"] for kind in keyring.WRAPPED for row in kind.batch(connection, "gold", bytes(1), 1000)]
        scopes = connection.execute("SELECT uuid FROM scopes WHERE key_name = 'gold'").fetchall()
        made = connection.execute("SELECT image_id FROM wraps WHERE key_name = 'gold'").fetchall()
    for row in scopes:
        described = json.loads(to.store.get(f"scopes/{row['uuid']}/scope.json"))
        kept.append(bytes.fromhex(described["wrapped_secret"]))
    for row in made:
        kept += [bytes.fromhex(wrap["wrapped"][2:]) for wrap in sidecar.read(to.store, row["image_id"])["wraps"]]
    return {keys.split("gold", wrapped)[0] for wrapped in kept}


def test_all_comes_under_the_new_version_and_reads_as_before(both, disk):
    images_made = [operations.import_image(both, disk, name=f"i{n}", key="gold") for n in range(3)]
    before, seen = versions(both), []

    result = keyring.rotate(both, "gold", lambda done, total: seen.append((done, total)))

    assert result["rewrapped"] == 5  # three images, their scope, the inbox
    assert versions(both) == {result["version"]} == {both.keys.find("gold").version}
    assert not before & versions(both)
    assert seen[-1] == (5, 5)
    assert not both.keys.find("gold").rotating
    assert operations.content(both, images_made[0]) == disk.read_bytes()
    operations.import_image(both, disk, name="next", key="gold")
    assert images.find(both.catalog, "next")["new_size"] == 0


def test_more_than_a_batch_and_nothing_of_another_key(to, disk, monkeypatch):
    monkeypatch.setattr(keyring, "_BATCH", 2)
    to.keys.create("silver")
    other = operations.import_image(to, disk, name="other", key="silver")
    for number in range(4):
        operations.import_image(to, disk, name=f"i{number}", key="gold")
    with to.catalog.transaction() as connection:
        before = wraps.of_image(connection, other)

    assert keyring.rotate(to, "gold", quiet)["rewrapped"] == 5

    assert len(versions(to)) == 1
    with to.catalog.transaction() as connection:
        assert wraps.of_image(connection, other) == before


def test_a_key_that_may_not_be_used_is_not_rotated(both, disk):
    image = operations.import_image(both, disk, key="gold")
    before = versions(both)
    both.keys.set_enabled("gold", False)
    with pytest.raises(KeyDisabledError):
        keyring.rotate(both, "gold", quiet)
    with pytest.raises(KeyMissingError):
        keyring.rotate(both, "silver", quiet)

    both.keys.set_enabled("gold", True)
    assert versions(both) == before
    assert not both.keys.find("gold").rotating
    assert operations.content(both, image) == disk.read_bytes()


@pytest.mark.parametrize("at", ["begin_rotation", "_rewrap_batch", "end_rotation", "the end"])
def test_killed_in_any_step_and_run_again_it_is_done(to, disk, at):
    image = operations.import_image(to, disk, key="gold")
    child = subprocess.run([sys.executable, "-c", KILLED, at], check=False)
    assert child.returncode == -9
    assert operations.content(to, image) == disk.read_bytes()

    version = keyring.rotate(to, "gold", quiet)["version"]

    assert versions(to) == {version}
    assert version == ("3" if at == "the end" else "2")
    assert list(json.loads(Path(to.keys.url).read_text())["projects"]["default"]["gold"]["versions"]) == [version]
    assert operations.content(to, image) == disk.read_bytes()


def test_killed_before_any_call_of_catalog_or_store_and_run_again_it_is_done(to, disk):
    image = operations.import_image(to, disk, key="gold")
    step, killed = 0, True
    with killing.runner() as runner:
        while killed:
            killed = runner.killed("tests.operations.rotate", "gold", step=step)
            assert operations.content(to, image) == disk.read_bytes()

            version = keyring.rotate(to, "gold", quiet)["version"]

            assert versions(to) == {version}
            assert not to.keys.find("gold").rotating
            assert operations.content(to, image) == disk.read_bytes()
            step += 3
    assert step > 15


@pytest.mark.parametrize("verb", ["generate", "unwrap"])
def test_it_waits_for_who_wraps_or_unwraps_at_the_moment(to, disk, catalog_url, monkeypatch, verb):
    """A wrap that is made and not yet written, or read and not yet unwrapped, is not left behind."""
    image = operations.import_image(to, disk, key="gold")
    reached, go_on = threading.Event(), threading.Event()
    real = getattr(to.keys, verb)
    calls = itertools.count()

    def slow(*arguments):
        result = real(*arguments) if verb == "generate" else None
        if next(calls) == (1 if verb == "generate" else 0):  # the first that is generated is a trial of no use
            reached.set()
            assert go_on.wait(60)
        return result or real(*arguments)

    def use():
        if verb == "generate":
            return operations.import_image(to, disk, name="two", key="gold")
        operations.content(to, image)
        return image

    with ThreadPoolExecutor(2) as pool:
        monkeypatch.setattr(to.keys, verb, slow)
        using = pool.submit(use)
        assert reached.wait(60)
        rotating = pool.submit(keyring.rotate, to, "gold", quiet)
        assert waits_for_a_lock(catalog_url, rotating)
        go_on.set()
        made, version = using.result(), rotating.result()["version"]

    assert versions(to) == {version}
    assert operations.content(to, made) == disk.read_bytes()


def waits_for_a_lock(catalog_url, future):
    """Whether something in the database comes to wait for an advisory lock before the future is done."""
    query = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = "
    query += "(SELECT oid FROM pg_database WHERE datname = current_database())"
    with Catalog(catalog_url, None) as operator:
        while not future.done():
            with operator.transaction() as connection:
                if connection.execute(query).fetchone():
                    return True
    return False


def test_it_goes_on_beside_imports_and_reads_which_notice_nothing(both, disk):
    """Each wrap that an import makes meanwhile comes under a version that is there at the end."""
    first = operations.import_image(both, disk, name="first", key="gold")
    ended = threading.Event()

    def rotations():
        try:
            return [keyring.rotate(both, "gold", quiet)["version"] for _ in range(4)]
        finally:
            ended.set()

    def imports(lane):
        made = []
        while not ended.is_set() or not made:
            made.append(operations.import_image(both, disk, name=f"{lane}-{len(made)}", key="gold"))
            assert operations.content(both, first) == disk.read_bytes()
        return made

    with ThreadPoolExecutor(3) as pool:
        rotating, *importing = pool.submit(rotations), pool.submit(imports, "a"), pool.submit(imports, "b")
        last = rotating.result()[-1]
        made = [image for lane in importing for image in lane.result()]

    assert versions(both) == {last}
    assert {operations.content(both, image) for image in made} == {disk.read_bytes()}


@pytest.mark.parametrize("at", ["_rewrap", "_end"])
def test_one_that_was_paused_does_not_end_the_next_one(both, disk, monkeypatch, at):
    """What the next one has not re-wrapped yet is under the version that the paused one would let stand alone."""
    image = operations.import_image(both, disk, key="gold")
    late = getattr(keyring, at)

    def paused(to, key):
        monkeypatch.setattr(keyring, at, late)
        keyring.rotate(both, "gold", quiet)
        with both.catalog.transaction() as connection:
            wraps.hold_alone(connection)
            both.keys.begin_rotation("gold")
        return late(to, key)

    monkeypatch.setattr(keyring, at, paused)
    keyring.rotate(both, "gold", quiet)

    assert both.keys.find("gold").rotating
    assert operations.content(both, image) == disk.read_bytes()
    keyring.rotate(both, "gold", quiet)
    assert versions(both) == {both.keys.find("gold").version}
    assert operations.content(both, image) == disk.read_bytes()


def test_two_at_once_end_with_one_version(both, disk):
    image = operations.import_image(both, disk, key="gold")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: keyring.rotate(both, "gold", quiet), range(2)))

    assert versions(both) == {both.keys.find("gold").version}
    assert not both.keys.find("gold").rotating
    assert operations.content(both, image) == disk.read_bytes()


def test_the_log_tells_of_everything_that_is_done_with_keys(to):
    keyring.create(to, "silver")
    keyring.set_enabled(to, "silver", False)
    keyring.set_enabled(to, "silver", True)
    keyring.rotate(to, "silver", quiet)

    with to.catalog.transaction() as connection:
        events = connection.execute("SELECT operation, outcome, reason FROM events ORDER BY id").fetchall()
    assert [tuple(event.values()) for event in events] == [
        ("create-key", "done", "silver"),
        ("disable-key", "done", "silver"),
        ("enable-key", "done", "silver"),
        ("rotate-key", "started", "silver"),
        ("rotate-key", "done", "silver is at version 2"),
    ]
