"""The sidecar: what only the catalog knows of an image lies in the store too, always as it is now."""

import json
from uuid import UUID

import pytest

from darkroom import creation, crypto, rekeying, sidecar, systems
from darkroom.catalog import Catalog, create_project, images
from darkroom.errors import RefusedError, UnavailableError
from tests import faults, operations


def record(to, image):
    return sidecar.read(to.store, UUID(image))


def tag(to, image, key, *, write=True):
    with to.catalog.transaction() as connection:
        connection.execute("INSERT INTO tags VALUES (%s, %s, 'x')", (image, key))
        if write:
            sidecar.write(to, connection, UUID(image))


def test_an_active_image_has_one_with_all_that_is_known_of_it(to, raw_disk):
    image = operations.import_image(to, raw_disk, key="gold", tags={"team": "web"})
    found = record(to, image)
    disk = found["disks"][0]

    assert (found["image"]["id"], found["image"]["name"], found["image"]["status"]) == (image, "one", "active")
    assert [(tag["key"], tag["value"]) for tag in found["tags"]] == [("team", "web")]
    assert found["project"] == "default"
    assert found["projects"] == {found["image"]["project_id"]: "default"}
    assert [wrap["key_name"] for wrap in found["wraps"]] == ["gold"]
    key = systems.data_key(to, images.get(to.catalog, image))
    digest = bytes.fromhex(disk["manifest_digest"][2:])
    assert bytes.fromhex(disk["manifest_mac"][2:]) == crypto.manifest_mac(key, UUID(image), 0, digest)
    assert not {"refs", "leases", "runs"} & found.keys()


def test_it_follows_a_change_of_the_image(to, raw_disk):
    to.keys.create("silver")
    image = operations.import_image(to, raw_disk, key="gold")
    rekeying.rekey(to, image, "silver")
    tag(to, image, "a")

    assert [wrap["key_name"] for wrap in record(to, image)["wraps"]] == ["silver"]
    assert [tag["key"] for tag in record(to, image)["tags"]] == ["a"]


def test_a_change_that_cannot_be_written_down_is_not_made(to, raw_disk):
    image = operations.import_image(to, raw_disk)
    broken = operations.with_store(to, faults.ScriptedStore(to.store, "", then="E"))
    with pytest.raises(UnavailableError):
        tag(broken, image, "a")

    assert images.detail(to.catalog, UUID(image))["tags"] == {}
    assert record(to, image)["tags"] == []


def test_a_failed_import_leaves_none(to, raw_disk):
    image = operations.import_image(to, raw_disk, until="upload_disk")
    creation.fail(to, image, RefusedError("x"))

    assert [key for key in operations.objects(to) if key.startswith("images/")] == []


def test_a_stranger_neither_reads_nor_writes_it(to, raw_disk, catalog_url):
    image = operations.import_image(to, raw_disk)
    with Catalog(catalog_url, None) as operator, operator.transaction() as connection:
        create_project(connection, "stranger")
    with Catalog(catalog_url, "stranger") as catalog, catalog.transaction() as connection:
        assert connection.execute("SELECT sidecar(%s) AS r", (image,)).fetchone()["r"] is None
        assert connection.execute("SELECT * FROM sidecars").fetchall() == []


def test_one_that_is_not_an_images_own_is_refused(to, raw_disk):
    image = operations.import_image(to, raw_disk)
    key = sidecar.object_key(UUID(image))
    good = json.loads(to.store.get(key))
    for body in (
        b"{",
        b"[]",
        json.dumps({**good, "version": 9}).encode(),
        json.dumps({**good, "image": {"id": "x"}}).encode(),
    ):
        to.store.put(key, [body], len(body))
        with pytest.raises(sidecar.SidecarInvalidError):
            sidecar.read(to.store, UUID(image))
