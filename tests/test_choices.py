"""The names that forms offer."""

import dataclasses

import pytest

from darkroom import choices, deleting, sharing, standing
from darkroom.catalog import Catalog, create_project, servers
from darkroom.catalog import images as rows
from darkroom.compute import hosts
from darkroom.compute.hosts import Host
from darkroom.projects import credentials
from darkroom.settings import Settings
from darkroom.systems import open_systems
from tests.operations import image_row, import_image


@pytest.fixture
def acme(to, catalog_url):
    with Catalog(catalog_url, None) as operator, operator.transaction() as connection:
        create_project(connection, "acme")
    with open_systems(dataclasses.replace(Settings(), project="acme")) as found:
        yield found


def test_images_are_offered_to_what_they_can_be_used_for_newest_first(to, small_disk):
    old = image_row(to, "old", {"team": "web"}, family="debian")
    image_row(to, "new", {"stage": "test"}, family="debian", key_name="gold")
    image_row(to, "off")
    standing.deactivate(to, ["off"])
    import_image(to, small_disk, name="begun", until="validate")
    deleted = [image_row(to, "gone"), image_row(to, "gone-too")]
    for image in deleted:
        deleting.delete(to, image)

    found = choices.present(to)

    assert found["usable images"] == ["new", "old"]
    assert found["own images"] == ["off", "new", "old"]
    assert found["active images"] == ["new", "old"]
    assert found["encrypted images"] == ["new"]
    assert found["deactivated images"] == ["off"]
    assert found["unfinished images"] == ["begun"]
    assert found["deleted images"] == ["gone-too", "gone"]
    assert found["families"] == ["debian"]
    assert found["tags"] == ["stage", "team"]
    assert found["keys"] == ["gold"]
    assert str(rows.find(to.catalog, "old")["id"]) == old


def test_an_image_is_offered_by_its_id_where_its_name_means_another_one(to, acme):
    theirs = image_row(to, "web")
    image_row(to, "mail")
    for name in ("web", "mail"):
        sharing.share(to, name, "acme")
        sharing.accept(acme, name)
    own = image_row(acme, "web")
    first, second = image_row(acme, "gone"), ""
    deleting.delete(acme, first)
    second = image_row(acme, "gone")
    deleting.delete(acme, second)

    found = choices.present(acme)

    assert sorted(found["usable images"]) == sorted(["web", theirs, "mail"])
    assert found["own images"] == ["web"]
    assert found["deleted images"] == [second, first]
    assert sorted(found["incoming images"]) == ["mail", "web"]
    assert str(rows.find(acme.catalog, "web")["id"]) == own


def test_hosts_servers_and_volumes_are_offered_by_name(to, catalog_url, home):
    image = image_row(to, "web")
    with Catalog(catalog_url, None) as operator:
        hosts.add(operator, Host("kvm1", "qemu:///system", home / "host", "kvm", 1 << 30))
    server = {"host": "kvm1", "image_id": image, "cpus": 1, "memory": 512, "boot_mode": "bios", "network": "user"}
    disk = {"host": "kvm1", "size": 1, "image_id": image, "image_disk": 0, "manifest_digest": b""}
    for name in ("a", "b"):
        with to.catalog.transaction() as connection:
            servers.insert(connection, "servers", {**server, "name": f"server-{name}", "request": {}})
            servers.insert(connection, "server_disks", {**disk, "volume": f"volume-{name}"})

    found = choices.present(to)

    assert found["hosts"] == ["kvm1"]
    assert found["servers"] == ["server-b", "server-a"]
    assert found["volumes"] == ["volume-b", "volume-a"]


def test_other_projects_are_offered_to_the_account_that_may_act_as_them(to, acme, catalog_url):
    assert choices.present(to)["projects"] == ["acme"]
    assert choices.present(acme)["projects"] == ["default"]

    with Catalog(catalog_url, None) as operator:
        own = credentials(operator, catalog_url, "acme")
    with open_systems(dataclasses.replace(Settings(), catalog_url=own)) as found:
        assert choices.present(found)["projects"] == []


def test_no_more_is_offered_than_can_be_looked_through(to):
    with to.catalog.transaction() as connection:
        connection.execute(
            """INSERT INTO images (name, type, source, request, status)
            SELECT 'web-' || n, 'system', '/x', '{}', 'active' FROM generate_series(1, 200) n"""
        )

    assert len(choices.present(to)["usable images"]) == choices.LIMIT
