"""Import and export of real files: every format in and out, refusals, repetition, and what is left behind."""

import dataclasses
import hashlib
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from darkroom import creation, exporting, importing, keys, postgres, qemu, reap, rules, sources, systems
from darkroom.catalog import CatalogUnavailableError, images, listing, uploads
from darkroom.errors import DarkroomError, RefusedError
from darkroom.model import MiB
from darkroom.store import StoreFullError
from tests import faults, operations
from tests.conftest import make_disk

SOURCES = {
    "raw": ("raw", ""),
    "qcow2-v2": ("qcow2", "compat=0.10"),
    "qcow2-v3": ("qcow2", "compat=1.1"),
    "qcow2-extended-l2": ("qcow2", "extended_l2=on,cluster_size=128k"),
    "qcow2-zlib": ("qcow2", "compression_type=zlib"),
    "qcow2-zstd": ("qcow2", "compression_type=zstd"),
    "qcow": ("qcow", ""),
    "qed": ("qed", ""),
    "vdi-dynamic": ("vdi", ""),
    "vdi-static": ("vdi", "static=on"),
    "vmdk-sparse": ("vmdk", "subformat=monolithicSparse"),
    "vmdk-stream": ("vmdk", "subformat=streamOptimized"),
    "vhd-dynamic": ("vpc", "subformat=dynamic,force_size=on"),
    "vhd-fixed": ("vpc", "subformat=fixed,force_size=on"),
    "vhdx-dynamic": ("vhdx", "subformat=dynamic"),
    "vhdx-fixed": ("vhdx", "subformat=fixed"),
}


def convert(raw, name):
    driver, options = SOURCES[name]
    suffix = {"vpc": "vhd"}.get(driver, driver)
    target = raw.with_name(f"{name}.{suffix}")
    compressed = ["-c"] if name in ("qcow2-zlib", "qcow2-zstd") else []
    more = ["-o", options] if options else []
    subprocess.run(["qemu-img", "convert", *compressed, "-f", "raw", "-O", driver, *more, raw, target], check=True)
    return target


@pytest.fixture
def whole_disk(tmp_path):
    """A disk whose size every format can hold as it is."""
    return make_disk(tmp_path / "disk.raw", size=40 * MiB)


@pytest.mark.parametrize("name", SOURCES)
def test_every_format_comes_in_bit_identical(to, whole_disk, tmp_path, qemu_img, name):
    image = operations.import_image(to, convert(whole_disk, name), key="gold")
    operations.export_image(to, image, tmp_path / "out.raw")

    assert "identical" in qemu_img("compare", "-f", "raw", "-F", "raw", whole_disk, tmp_path / "out.raw")
    assert images.get(to.catalog, image)["source_format"] == SOURCES[name][0].replace("vpc", "vhd")


def test_the_content_digest_is_the_same_for_every_format_and_key(to, whole_disk):
    digests = set()
    for number, (name, key) in enumerate(
        [("raw", ""), ("vmdk-stream", "gold"), ("qcow2-zstd", ""), ("vdi-dynamic", "gold")]
    ):
        image = operations.import_image(to, convert(whole_disk, name), name=f"i{number}", key=key)
        digests.add(bytes(images.get(to.catalog, image)["content_digest"]))

    assert len(digests) == 1


@pytest.mark.parametrize("format", exporting.FORMATS)
def test_every_format_goes_out_bit_identical(to, whole_disk, tmp_path, qemu_img, format):
    image = operations.import_image(to, whole_disk, key="gold")
    target = tmp_path / f"out.{format}"
    result = operations.export_image(to, image, target, format)

    assert "identical" in qemu_img("compare", "-f", "raw", "-F", qemu.DRIVERS[format], whole_disk, target)
    check = subprocess.run(["sha256sum", "-c", f"{target.name}.sha256"], cwd=tmp_path, check=False, capture_output=True)
    assert check.returncode == 0
    assert result["sha256"] == hashlib.sha256(target.read_bytes()).hexdigest()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk.raw", target.name, f"{target.name}.sha256"]


def test_a_raw_file_of_any_length_keeps_its_length(to, raw_disk, tmp_path, qemu_img):
    image = operations.import_image(to, raw_disk)
    operations.export_image(to, image, tmp_path / "out.raw")

    assert (tmp_path / "out.raw").read_bytes() == raw_disk.read_bytes()


def test_import_and_export_through_a_bucket(to, bucket, whole_disk, tmp_path, qemu_img):
    import boto3

    from darkroom import store

    client = boto3.client("s3", endpoint_url=os.environ["DARKROOM_S3_ENDPOINT_URL"])
    client.upload_file(str(convert(whole_disk, "qcow2-zstd")), bucket, "in/disk.qcow2")
    settings = creation.systems.Settings()
    inside = operations.with_store(to, store.open_store(f"s3://{bucket}/images", settings))
    inside = dataclasses.replace(inside, settings=settings)
    image = operations.import_image(inside, f"s3://{bucket}/in/disk.qcow2", key="gold")
    operations.export_image(inside, image, f"s3://{bucket}/out/disk.vmdk", "vmdk")

    client.download_file(bucket, "out/disk.vmdk", str(tmp_path / "out.vmdk"))
    line = client.get_object(Bucket=bucket, Key="out/disk.vmdk.sha256")["Body"].read().decode()
    assert "identical" in qemu_img("compare", "-f", "raw", "-F", "vmdk", whole_disk, tmp_path / "out.vmdk")
    assert line == f"{hashlib.sha256((tmp_path / 'out.vmdk').read_bytes()).hexdigest()}  disk.vmdk\n"


def test_a_compressed_file_comes_in_and_leaves_nothing_in_the_spool(to, whole_disk, tmp_path):
    subprocess.run(["xz", "-0", "-k", convert(whole_disk, "vmdk-sparse")], check=True)
    image = operations.import_image(to, tmp_path / "vmdk-sparse.vmdk.xz")

    assert operations.content(to, image) == whole_disk.read_bytes()
    assert list(to.settings.spool.iterdir()) == []


def test_an_nbd_export_comes_in(to, whole_disk, tmp_path):
    socket = to.settings.home / "nbd"
    server = subprocess.Popen(["qemu-nbd", "-r", "-t", "-f", "raw", "-k", socket, whole_disk])
    try:
        while not socket.exists():
            assert server.poll() is None
            time.sleep(0.01)
        time.sleep(0.1)
        image = operations.import_image(to, f"nbd+unix:///?socket={socket}")
    finally:
        server.kill()
        server.wait()

    assert operations.content(to, image) == whole_disk.read_bytes()


def test_the_same_import_again_is_the_same_image(to, raw_disk):
    image = operations.import_image(to, raw_disk)
    before = operations.objects(to)

    assert operations.import_image(to, raw_disk) == image
    assert operations.objects(to) == before


def test_a_name_that_is_taken_is_a_conflict(to, raw_disk, tmp_path):
    operations.import_image(to, raw_disk)

    with pytest.raises(images.NameTakenError):
        operations.import_image(to, make_disk(tmp_path / "other.raw", seed=2))


def test_a_wrong_digest_means_no_image(to, raw_disk):
    right = hashlib.sha256(raw_disk.read_bytes()).hexdigest()
    image = operations.import_image(to, raw_disk, digest=f"sha256:{right.upper()}".replace("SHA256", "sha256"))
    assert images.get(to.catalog, image)["status"] == "active"

    wrong = "sha256:" + "0" * 64
    with pytest.raises(sources.DigestMismatchError) as caught:
        operations.import_image(to, raw_disk, name="two", digest=wrong)
    assert right in str(caught.value)
    image = images.find(to.catalog, "two")["id"]
    creation.fail(to, str(image), caught.value)
    row = images.get(to.catalog, image)
    assert (row["status"], row["failure"]["code"]) == ("killed", "digest-mismatch")


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("name", " x", "name-invalid"),
        ("digest", "sha256:12", "digest-format"),
        ("digest", "crc:12", "digest-format"),
        ("tags", {"a b": ""}, "tag-invalid"),
        ("description", "<b>", "description-invalid"),
        ("max_ram", -1, "memory-invalid"),
        ("min_disk", 5000, "min-disk-invalid"),
        ("key", "no-such-key", "key-not-found"),
    ],
)
def test_a_request_that_breaks_a_rule_makes_no_row(to, raw_disk, field, value, code):
    with pytest.raises(DarkroomError) as caught:
        operations.import_image(to, raw_disk, **{field: value})

    assert caught.value.code == code
    assert listing.page(to.catalog, listing.Filter()) == []


def test_a_minimum_disk_below_the_disk_itself_is_refused(to, tmp_path):
    big = tmp_path / "big.raw"
    with open(big, "wb") as file:
        file.truncate(2048 * MiB + 512)

    with pytest.raises(rules.MinimumDiskError, match="3 GiB"):
        operations.import_image(to, big, min_disk=2)


def test_a_source_that_changes_while_it_is_read_means_no_image(to, raw_disk, monkeypatch):
    real = creation.upload.upload

    def changing(reader, target, progress):
        real(reader, target, progress)
        with open(raw_disk, "r+b") as file:
            file.write(b"changed")

    monkeypatch.setattr(creation.upload, "upload", changing)
    with pytest.raises(sources.SourceChangedError):
        operations.import_image(to, raw_disk)


def test_a_source_that_shrinks_while_it_is_read_is_named(to, raw_disk, monkeypatch):
    real = creation.upload._allocation

    def shrinking(reader):
        wanted = real(reader)
        os.truncate(raw_disk, 1 * MiB)
        return wanted

    monkeypatch.setattr(creation.upload, "_allocation", shrinking)
    with pytest.raises(sources.SourceChangedError):
        operations.import_image(to, raw_disk)


def test_a_source_replaced_between_a_kill_and_the_next_try_is_imported_anew(to, raw_disk):
    first = operations.import_image(to, raw_disk, until="upload_disk")
    make_disk(raw_disk, seed=5)
    second = operations.import_image(to, raw_disk)

    assert first != second
    assert images.get(to.catalog, first)["failure"]["code"] == "superseded"
    assert operations.content(to, second) == raw_disk.read_bytes()


def test_a_store_that_is_full_keeps_what_was_stored(to, raw_disk, monkeypatch):
    real = os.write

    def full(fd, data):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("darkroom.store.directory.os.write", full)
        with pytest.raises(StoreFullError) as caught:
            operations.import_image(to, raw_disk)
    assert real is os.write
    assert (caught.value.exit_code, caught.value.retryable) == (6, False)
    image = operations.import_image(to, raw_disk)
    assert operations.content(to, image) == raw_disk.read_bytes()


def test_two_imports_of_the_same_file_at_once_are_both_right(to, raw_disk):
    results = {}

    def run(name):
        results[name] = operations.import_image(to, raw_disk, name=name, key="gold")

    threads = [threading.Thread(target=run, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for image in results.values():
        assert operations.content(to, image) == raw_disk.read_bytes()
    assert len(results) == 2


def test_two_threads_never_work_on_one_image(to, raw_disk, monkeypatch):
    inside, go_on = threading.Event(), threading.Event()
    real = creation.upload.upload

    def slow(reader, target, progress):
        inside.set()
        go_on.wait(20)
        real(reader, target, progress)

    monkeypatch.setattr(creation.upload, "upload", slow)
    first = threading.Thread(target=operations.import_image, args=(to, raw_disk))
    first.start()
    inside.wait(20)
    with pytest.raises(uploads.LeaseHeldError):
        operations.import_image(to, raw_disk)
    go_on.set()
    first.join()

    assert images.find(to.catalog, "one")["status"] == "active"


def test_an_import_that_another_process_works_on_is_left_alone(to, raw_disk):
    image = operations.import_image(to, raw_disk, until="upload_disk")
    with to.catalog.transaction() as connection:
        connection.execute("UPDATE leases SET holder = 'elsewhere b 1 2'")

    with pytest.raises(uploads.LeaseHeldError) as caught:
        operations.import_image(to, raw_disk)
    assert caught.value.exit_code == 5
    with pytest.raises(uploads.LeaseLostError):
        creation.fail(to, image, RefusedError("x"))
    assert images.get(to.catalog, image)["status"] == "saving"


def test_a_failed_import_leaves_only_what_the_collector_takes(to, raw_disk, catalog_url):
    image = operations.import_image(to, raw_disk, key="gold", until="upload_disk")
    creation.fail(to, image, RefusedError("x"))

    plan = operations.collector_plan(to, catalog_url)
    with to.catalog.transaction() as connection:
        for table in ("leases", "runs", "refs", "wraps"):
            assert connection.execute(f"SELECT count(*) AS n FROM {table}").fetchone() == {"n": 0}
        packs = connection.execute("SELECT count(*) AS n FROM packs").fetchone()["n"]
    assert (len(plan.packs), plan.objects) == (packs, {})
    assert plan.size > MiB


def test_an_image_that_is_not_active_is_not_exported(to, raw_disk, tmp_path):
    image = operations.import_image(to, raw_disk, until="upload_disk")

    with pytest.raises(DarkroomError) as caught:
        operations.export_image(to, image, tmp_path / "out.raw")
    assert caught.value.code == "not-readable"


def test_an_export_overwrites_nothing_and_leaves_nothing_half_done(to, raw_disk, tmp_path, monkeypatch):
    image = operations.import_image(to, raw_disk)
    (tmp_path / "there").write_text("precious")
    with pytest.raises(DarkroomError) as caught:
        operations.export_image(to, image, tmp_path / "there")
    assert (caught.value.exit_code, (tmp_path / "there").read_text()) == (5, "precious")
    with pytest.raises(DarkroomError) as caught:
        operations.export_image(to, image, tmp_path / "no" / "folder")
    assert caught.value.exit_code == 4

    for key in [key for key in operations.objects(to) if "/packs/" in key]:
        to.store.delete(key)
    for format in ("raw", "qcow2"):
        with pytest.raises(DarkroomError) as caught:
            operations.export_image(to, image, tmp_path / f"out.{format}", format)
        assert caught.value.code == "object-missing"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk.raw", "there"]


def test_a_key_that_is_gone_is_named_on_read(to, raw_disk, tmp_path):
    image = operations.import_image(to, raw_disk, key="gold")
    Path(to.keys.url).unlink()
    with pytest.raises(keys.KeyMissingError):
        operations.export_image(to, image, tmp_path / "out.raw")
    to.keys.create("gold")
    with pytest.raises(keys.UnwrapError):
        operations.export_image(to, image, tmp_path / "out.raw")


def test_a_catalog_that_is_killed_in_the_pass_and_comes_back_does_not_lose_the_import(home, raw_disk):
    """The step is tried again, as a flow does, and goes on behind what was recorded."""
    with systems.open_systems(systems.Settings()) as to:
        to.keys.create("gold")
        image = operations.import_image(to, raw_disk, key="gold", until="create_data_key")
        folder = home / "catalog"
        killing = faults.ScriptedStore(to.store, "")
        real = killing.put

        def put(key, parts, size):
            real(key, parts, size)
            if len(killing.calls) == 1:
                os.kill(postgres.status(folder)["pid"], signal.SIGKILL)

        killing.put = put
        try:
            with pytest.raises(CatalogUnavailableError) as caught:
                importing.upload_disk(operations.with_store(to, killing), image, operations.quiet)
            assert caught.value.retryable
            postgres.ensure(folder)
            importing.upload_disk(to, image, operations.quiet)
            creation.activate(to, image)
            assert operations.content(to, image) == raw_disk.read_bytes()
        finally:
            postgres.stop(folder)


@pytest.mark.parametrize(
    "url",
    [
        "https://user:pw@host/disk.qcow2",
        "https://host/disk.qcow2?X-Amz-Signature=abc&X-Amz-Expires=60",
        "https://host/disk.qcow2?sv=1&SIG=abc",
        "s3://key:secret@bucket/disk.qcow2",
    ],
)
def test_a_source_with_credentials_in_its_address_is_refused_and_not_repeated(to, url):
    with pytest.raises(sources.SourceUrlError) as caught:
        operations.import_image(to, url)

    assert "abc" not in str(caught.value)
    assert "pw" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert listing.page(to.catalog, listing.Filter()) == []


def test_a_bad_sector_of_the_source_is_named(to, raw_disk, monkeypatch):
    real = os.pread

    def bad(fd, length, offset):
        if length >= 1 << 19:
            raise OSError(5, "Input/output error")
        return real(fd, length, offset)

    monkeypatch.setattr("darkroom.rawdisk.os.pread", bad)
    with pytest.raises(RefusedError) as caught:
        operations.import_image(to, raw_disk)
    assert (caught.value.code, caught.value.exit_code) == ("source-read", 3)


def test_an_import_that_was_given_up_is_reaped_with_a_reason(to, raw_disk, tmp_path):
    given_up = operations.import_image(to, raw_disk, until="upload_disk")
    waiting = operations.import_image(to, raw_disk, name="two", until="upload_disk")
    done = operations.import_image(to, raw_disk, name="three")
    with to.catalog.transaction() as connection:
        connection.execute("UPDATE leases SET reap_at = now() - interval '1 s' WHERE image_id = %s", (given_up,))

    assert reap.reap(to)["images"] == [given_up]
    assert images.get(to.catalog, given_up)["failure"]["code"] == "lease-expired"
    assert images.get(to.catalog, waiting)["status"] == "saving"
    assert operations.content(to, done) == raw_disk.read_bytes()
    assert f"images/{given_up}/disk-0" not in operations.objects(to)
    assert not (to.settings.spool / given_up).exists()
    assert reap.reap(to)["images"] == []
    operations.import_image(to, raw_disk)
