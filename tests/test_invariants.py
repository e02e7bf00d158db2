"""The invariants of DESIGN.md §2, by their names."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys

import pytest

from darkroom import check, collect, creation, deleting, sharing
from darkroom.catalog import Catalog, create_project, images
from darkroom.errors import DarkroomError, RefusedError, UnavailableError
from darkroom.model import MiB
from tests import faults, hostile, operations
from tests.conftest import make_disk


def test_active_means_readable(to, raw_disk, tmp_path, qemu_img):
    qemu_img("convert", "-f", "raw", "-O", "qcow2", "-c", raw_disk, tmp_path / "disk.qcow2")
    image = operations.import_image(to, tmp_path / "disk.qcow2", key="gold")
    row = images.get(to.catalog, image)
    operations.export_image(to, image, tmp_path / "out.raw")

    assert row["status"] == "active"
    assert "identical" in qemu_img("compare", "-f", "raw", "-F", "raw", raw_disk, tmp_path / "out.raw")
    assert check.check_image(to, row, operations.quiet)["findings"] == []


def test_write_order(to, raw_disk):
    """At each object that is written, and each that is not, the rows that must come before it are there."""
    order = []
    watched = faults.ScriptedStore(to.store, "")
    real = watched.put

    def put(key, parts, size):
        with to.catalog.transaction() as connection:
            status = connection.execute("SELECT status FROM images").fetchone()["status"]
            packs = {str(row["uuid"]): row["status"] for row in connection.execute("SELECT uuid, status FROM packs")}
        real(key, parts, size)
        order.append((key.split("/")[-2] if "/packs/" in key else key.split("/")[0], status, packs.get(key[-36:])))

    watched.put = put
    image = operations.import_image(operations.with_store(to, watched), raw_disk, key="gold")
    kinds = [("pack" if len(kind) == 2 else kind, status, pack) for kind, status, pack in order]

    assert kinds[0][0] == "scopes"
    assert all(entry == ("pack", "saving", "writing") for entry in kinds[1:-2])
    assert kinds[-2:] == [("images", "saving", None)] * 2  # manifest and sidecar
    assert images.get(to.catalog, image)["status"] == "active"


@pytest.mark.parametrize("calls", range(6))
def test_killed_anywhere_nothing_lost_nothing_stuck(to, raw_disk, monkeypatch, catalog_url, calls):
    """The store goes away after so many calls; see test_crash.py for processes that are killed."""
    monkeypatch.setattr("darkroom.packs.TARGET_SIZE", 1 << 19)
    stopping = operations.with_store(to, faults.ScriptedStore(to.store, "O" * calls, then="E"))
    with pytest.raises(UnavailableError):
        operations.import_image(stopping, raw_disk)
    with to.catalog.transaction() as connection:
        leases = connection.execute("SELECT count(*) AS n FROM leases").fetchone()["n"]
    image = operations.import_image(to, raw_disk)

    assert leases == 1
    assert operations.content(to, image) == raw_disk.read_bytes()
    assert operations.collector_plan(to, catalog_url).objects == {}


def test_only_the_sources_bytes(to, tmp_path):
    """No hostile file becomes an image, and no byte of the canary is in any object or row."""
    canary = hostile.write_canary(tmp_path / "canary")
    cases = hostile.catalogue(tmp_path / "cases", canary)[::7]
    for number, case in enumerate(cases):
        with pytest.raises(DarkroomError):
            operations.import_image(to, case.path, name=f"i{number}", format=case.declared)
    with to.catalog.transaction() as connection:
        assert connection.execute("SELECT count(*) AS n FROM images WHERE status = 'active'").fetchone()["n"] == 0
    for key in operations.objects(to):
        assert hostile.SECRET not in to.store.get(key)


def test_no_plaintext_no_keys_at_rest(to, tmp_path):
    """In no file of the home but the key file, and no table; see test_upload.py for digests and derived keys."""
    line = b"a secret that the guest alone should know"
    disk = make_disk(tmp_path / "disk.raw")
    with open(disk, "r+b") as file:
        file.write(line * 1000)
    image = operations.import_image(to, disk, key="gold")
    key = creation.systems.data_key(to, images.get(to.catalog, image))
    with to.catalog.transaction() as connection:
        for table in ("images", "disks", "runs", "scopes", "wraps", "events", "packs"):
            for row in connection.execute(f"SELECT {table}::text AS t FROM {table}").fetchall():
                assert key.hex() not in row["t"]
                assert line.decode() not in row["t"]

    for path in to.settings.home.rglob("*"):
        if path.is_file() and path.name != "keys.json":
            data = path.read_bytes()
            assert line not in data
            assert key not in data


def test_membership_decides(to, raw_disk, catalog_url):
    image = operations.import_image(to, raw_disk)
    with Catalog(catalog_url, None) as operator, operator.transaction() as connection:
        create_project(connection, "stranger")
    with Catalog(catalog_url, "stranger") as catalog:
        stranger = dataclasses.replace(to, catalog=catalog)
        unknown = "00000000-0000-0000-0000-000000000000"
        answers = set()
        for reference in (image, unknown):
            with pytest.raises(images.ImageMissingError) as caught:
                operations.export_image(stranger, reference, "/tmp/never")
            answers.add(str(caught.value).replace(reference, "ID"))
        assert len(answers) == 1
        assert operations.import_image(stranger, raw_disk) != image
        assert len(operations.objects(to)) >= 4
        sharing.share(to, image, "stranger")
        sharing.accept(stranger, image)
        assert operations.content(stranger, image) == raw_disk.read_bytes()
        sharing.unshare(to, image, "stranger")
        with pytest.raises(images.ImageMissingError):
            operations.content(stranger, image)


def test_deleting_harms_nobody_else(to, raw_disk, catalog_url):
    """An import that fails after it found all its chunks in another image's packs leaves that image whole."""
    image = operations.import_image(to, raw_disk, key="gold")
    other = operations.import_image(to, raw_disk, name="two", key="gold", until="upload_disk")
    creation.fail(to, other, RefusedError("x"))

    assert operations.collector_plan(to, catalog_url).packs == {}
    assert operations.content(to, image) == raw_disk.read_bytes()


def test_bounded(to, tmp_path):
    """1 TiB of disk costs little more memory than its metadata; measured in a process of its own."""
    disk = tmp_path / "sparse.raw"
    with open(disk, "wb") as file:
        file.truncate(1 << 40)
        for at in range(0, 1 << 40, 1 << 35):
            file.seek(at)
            file.write(os.urandom(MiB))
    script = "benchmarks/import_once.py"
    done = subprocess.run([sys.executable, script, disk, "sparse"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    assert json.loads(done.stdout.splitlines()[-1])["memory"] <= 400 * MiB


@pytest.mark.parametrize("calls", range(0, 14, 2))
def test_deleting_harms_nobody_else_wherever_it_stops(to, tmp_path, catalog_url, monkeypatch, qemu_img, calls):
    """One of three images that share chunks is deleted, purged and collected; the store goes away on the way."""
    monkeypatch.setattr("darkroom.packs.TARGET_SIZE", 1 << 19)
    disks = [make_disk(tmp_path / f"{name}.raw", size=8 << 20, seed=7) for name in ("gone", "kept")]
    with open(disks[0], "r+b") as file:
        file.write(os.urandom(6 << 20))
    gone, kept = (operations.import_image(to, disk, name=disk.stem, key="gold") for disk in disks)
    replica = operations.replicate(to, "kept", "replica")

    def end(systems):
        for operation in (deleting.delete, deleting.purge):
            with contextlib.suppress(images.ImageMissingError):
                operation(systems, gone)
        with Catalog(catalog_url, None) as operator:
            collect.collect(dataclasses.replace(systems, catalog=operator))

    stopping = faults.ScriptedStore(to.store, "O" * calls, then="E", on=("put", "get", "size", "delete"))
    with contextlib.suppress(UnavailableError):
        end(operations.with_store(to, stopping))
    end(to)

    for image in (kept, replica):
        target = tmp_path / f"{image}.raw"
        operations.export_image(to, image, target)
        assert "identical" in qemu_img("compare", "-f", "raw", "-F", "raw", disks[1], target)
        assert check.check_image(to, images.get(to.catalog, image), operations.quiet)["findings"] == []
    assert operations.collector_plan(to, catalog_url).size == 0
