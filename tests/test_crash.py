"""kill -9 of the importing process, at every step and at random points of the pass; then the same import again."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from darkroom.catalog import images, uploads
from tests import operations
from tests.conftest import make_disk

CHILD = """
import os, sys
from darkroom import importing, packs, upload
from darkroom.model import CHUNK_SIZE
from darkroom.settings import Settings
from darkroom.systems import open_systems
from tests import operations
packs.TARGET_SIZE = 4 * CHUNK_SIZE
upload._BATCH = 2
source, until, puts = sys.argv[1], sys.argv[2], int(sys.argv[3])
with open_systems(Settings()) as to:
    done = 0
    real = to.store.put
    def put(key, parts, size):
        global done
        real(key, parts, size)
        done += 1
        if puts and done >= puts:
            os.kill(os.getpid(), 9)
    to.store.put = put
    operations.import_image(to, source, key="gold", until=until)
    print("reached", flush=True)
    sys.stdin.read()
"""


def start(source, until="", puts=0):
    command = [sys.executable, "-c", CHILD, str(source), until, str(puts)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def kill_after_reached(child):
    assert child.stdout.readline() == b"reached\n"
    child.send_signal(signal.SIGKILL)
    finish(child)


def finish(child):
    child.wait(20)
    child.stdin.close()
    child.stdout.close()


def confined_processes(home):
    done = subprocess.run(["pgrep", "-f", f"qemu-nbd.*{home}"], capture_output=True, text=True, check=False)
    return done.stdout.split()


def assert_finishes(to, source, catalog_url, name="one"):
    """The same import again ends well; what it stands on is there, and only what the kill left is for the collector."""
    with to.catalog.transaction() as connection:
        rows = connection.execute("SELECT id, status FROM images WHERE name = %s", (name,)).fetchall()
        unleased = connection.execute(
            "SELECT i.id FROM images i LEFT JOIN leases l ON l.image_id = i.id "
            "WHERE i.status IN ('queued', 'saving') AND l.image_id IS NULL"
        ).fetchall()
        assert unleased == []
    recorded = {key for key in operations.objects(to) if "/packs/" in key}
    image = operations.import_image(to, source, name=name, key="gold")

    assert [str(row["id"]) for row in rows] in ([], [image])
    assert operations.content(to, image) == source.read_bytes()
    plan = operations.collector_plan(to, catalog_url)
    left = {key.rpartition("/")[2] for key in recorded}
    assert {str(pack) for pack in plan.packs} <= left | unfinished(to)
    assert plan.objects == {}
    assert not list((to.settings.home / "spool").iterdir())


def unfinished(to):
    with to.catalog.transaction() as connection:
        rows = connection.execute("SELECT uuid FROM packs WHERE status = 'writing'").fetchall()
    return {str(row["uuid"]) for row in rows}


@pytest.fixture
def disk(tmp_path):
    path = make_disk(tmp_path / "disk.raw", size=64 << 20, seed=3)
    with open(path, "r+b") as file:
        file.write(random.Random(3).randbytes(24 << 20))
    return path


@pytest.mark.parametrize("step", ["register", *operations.STEPS])
def test_killed_after_a_step(to, disk, catalog_url, step):
    kill_after_reached(start(disk, until=step))

    assert_finishes(to, disk, catalog_url)


@pytest.mark.parametrize("puts", [1, 2, 3, 5, 8])
def test_killed_after_an_object_and_before_its_record(to, disk, catalog_url, puts):
    child = start(disk, puts=puts)
    finish(child)
    assert child.returncode == -signal.SIGKILL

    assert_finishes(to, disk, catalog_url)


@pytest.mark.parametrize("seed", range(6))
def test_killed_at_a_random_moment(to, disk, catalog_url, tmp_path, seed):
    """The source goes through a confined QEMU, which must die too."""
    qcow2 = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", disk, qcow2], check=True)
    child = start(qcow2)
    time.sleep(0.4 + random.Random(seed).random() * 1.2)
    child.send_signal(signal.SIGKILL)
    finish(child)
    deadline = time.monotonic() + 10
    while confined_processes(to.settings.home) and time.monotonic() < deadline:
        time.sleep(0.02)

    assert confined_processes(to.settings.home) == []
    image = operations.import_image(to, qcow2, key="gold")
    assert operations.content(to, image) == disk.read_bytes()
    assert operations.collector_plan(to, catalog_url).objects == {}


def test_nothing_that_was_recorded_is_sent_again(to, disk):
    child = start(disk, puts=6)
    finish(child)
    with to.catalog.transaction() as connection:
        image = images.find(to.catalog, "one")["id"]
        runs = connection.execute("SELECT first_chunk, chunk_count, xmin::text FROM runs ORDER BY 1").fetchall()
    before = {key: os.stat(to.settings.home / "store" / key).st_ino for key in operations.objects(to)}
    assert runs

    operations.import_image(to, disk, key="gold", until="upload_disk")
    with to.catalog.transaction() as connection:
        after = connection.execute("SELECT first_chunk, chunk_count, xmin::text FROM runs ORDER BY 1").fetchall()
    assert after[: len(runs)] == runs
    assert {key: os.stat(to.settings.home / "store" / key).st_ino for key in before} == before
    assert len(uploads.finished_runs(to.catalog, image, 0)) > len(runs)
