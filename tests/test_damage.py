"""Damage in the store: `check` and `export` name it, and wrong bytes never come out."""

import os
import random

import pytest

from darkroom import check, manifest
from darkroom.catalog import images
from darkroom.errors import DamagedError
from tests import operations
from tests.conftest import make_disk

KEYS = pytest.mark.parametrize("key", ["", "gold"], ids=["plain", "encrypted"])


def findings(to, image):
    return check.check_image(to, images.get(to.catalog, image), operations.quiet)["findings"]


def paths(to, part):
    return [to.settings.home / "store" / key for key in sorted(operations.objects(to)) if part in key]


def assert_named(to, image, target, *codes):
    found = findings(to, image)
    assert {finding["code"] for finding in found} <= set(codes)
    assert found
    with pytest.raises(DamagedError) as caught:
        operations.export_image(to, image, target)
    assert caught.value.code in codes
    assert not target.exists()


@pytest.fixture
def big_packs(monkeypatch):
    monkeypatch.setattr("darkroom.packs.TARGET_SIZE", 1 << 19)
    monkeypatch.setattr("darkroom.upload._BATCH", 2)


@KEYS
def test_an_undamaged_image_checks_clean(to, raw_disk, key):
    assert findings(to, operations.import_image(to, raw_disk, key=key)) == []


@KEYS
@pytest.mark.parametrize("seed", range(8))
def test_a_flipped_byte_is_named(to, raw_disk, tmp_path, key, seed):
    image = operations.import_image(to, raw_disk, key=key)
    source = random.Random(seed)
    path = source.choice(paths(to, "/packs/"))
    last_chunk = os.path.getsize(path) - 88 - 40 * 20
    with open(path, "r+b") as file:
        at = source.randrange(last_chunk)
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes((byte ^ 1 << source.randrange(8),)))

    assert_named(to, image, tmp_path / "out", "chunk-invalid", "seal-broken")


@KEYS
def test_a_truncated_pack_is_named(to, raw_disk, tmp_path, key):
    image = operations.import_image(to, raw_disk, key=key)
    path = paths(to, "/packs/")[0]
    os.truncate(path, 1000)

    assert_named(to, image, tmp_path / "out", "object-truncated", "chunk-invalid", "seal-broken", "pack-invalid")


@KEYS
def test_a_damaged_trailer_is_named_though_nothing_reads_it_yet(to, raw_disk, key):
    image = operations.import_image(to, raw_disk, key=key)
    path = paths(to, "/packs/")[0]
    os.truncate(path, path.stat().st_size - 1)

    assert [finding["code"] for finding in findings(to, image)] == ["pack-invalid"]


@KEYS
def test_swapped_packs_are_named(to, raw_disk, tmp_path, key, big_packs):
    image = operations.import_image(to, raw_disk, key=key)
    one, two = paths(to, "/packs/")[:2]
    os.rename(one, tmp_path / "swap")
    os.rename(two, one)
    os.rename(tmp_path / "swap", two)

    codes = ("chunk-invalid", "seal-broken", "pack-invalid", "object-truncated")
    assert_named(to, image, tmp_path / "out", *codes)


@KEYS
def test_a_missing_pack_is_named(to, raw_disk, tmp_path, key):
    image = operations.import_image(to, raw_disk, key=key)
    for path in paths(to, "/packs/"):
        path.unlink()

    assert_named(to, image, tmp_path / "out", "object-missing")


@KEYS
def test_an_old_manifest_put_back_is_refused(to, raw_disk, tmp_path, key):
    image = operations.import_image(to, raw_disk, key=key)
    other = operations.import_image(to, make_disk(tmp_path / "other.raw", seed=9), name="two", key=key)
    mine, others = paths(to, str(image))[0], paths(to, str(other))[0]
    mine.write_bytes(others.read_bytes())

    assert_named(to, image, tmp_path / "out", "manifest-invalid")
    assert findings(to, other) == []


@KEYS
def test_a_flipped_byte_of_the_manifest_is_refused(to, raw_disk, tmp_path, key):
    image = operations.import_image(to, raw_disk, key=key)
    path = to.settings.home / "store" / manifest.object_key(images.get(to.catalog, image)["id"], 0)
    body = bytearray(path.read_bytes())
    for at in (0, len(body) // 2, len(body) - 20):
        damaged = bytearray(body)
        damaged[at] ^= 1
        path.write_bytes(damaged)
        assert_named(to, image, tmp_path / "out", "manifest-invalid", "object-truncated")


def test_a_reference_that_is_gone_is_named(to, raw_disk):
    image = operations.import_image(to, raw_disk)
    with to.catalog.transaction() as connection:
        connection.execute("DELETE FROM refs")

    assert {finding["code"] for finding in findings(to, image)} == {"pack-unreferenced"}


def test_another_content_digest_in_the_catalog_is_named(to, raw_disk):
    image = operations.import_image(to, raw_disk)
    with to.catalog.transaction() as connection:
        connection.execute("UPDATE images SET content_digest = 'x'")

    assert [finding["code"] for finding in findings(to, image)] == ["content-digest"]


def test_damage_that_is_there_when_an_image_is_read_back_means_no_image(to, raw_disk):
    """Chunks are found in the index, but the pack behind them is gone: the new image must not become active."""
    from darkroom import creation

    operations.import_image(to, raw_disk)
    for path in paths(to, "/packs/"):
        path.unlink()
    image = operations.import_image(to, raw_disk, name="two", until="upload_disk")

    with pytest.raises(DamagedError):
        creation.read_back(to, image, operations.quiet)
