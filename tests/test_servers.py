"""Servers from images, on a private libvirt, with guests of one sector that check their whole disk."""

import dataclasses
import json
import os
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from darkroom import keyring, servers, sharing, tending
from darkroom.catalog import Catalog, create_project, images
from darkroom.catalog import servers as rows
from darkroom.compute import connection, domain, keeping, overlay
from darkroom.keys import open_keys
from darkroom.model import GiB
from darkroom.placing import (
    ArchitectureError,
    BootModeError,
    HostFullError,
    NetworkMissingError,
    NotBootableError,
    ServerDiskError,
    ServerMemoryError,
    SriovMissingError,
)
from darkroom.reading import NotReadableError
from darkroom.settings import Settings
from darkroom.store import open_store
from darkroom.systems import identity as identity_of
from darkroom.systems import open_key_manager, open_object_store, open_systems
from tests import computing, operations
from tests.computing import create, image_of, request_for, says

KEYS = ("access", "secret")


@pytest.fixture
def host(compute_host):
    return compute_host


def properties(to, **values):
    with to.catalog.transaction() as connection:
        row = images.get(to.catalog, images.find(to.catalog, "one")["id"])
        images.update(connection, row["id"], properties={**row["properties"], **values})


@pytest.mark.parametrize("key", ["", "gold"])
def test_a_server_runs_at_once_and_becomes_whole_and_then_depends_on_nothing(to, host, small_disk, key):
    expected = image_of(to, small_disk, endless=True, key=key)

    server = create(to)

    assert (server["status"], server["state"], server["addresses"]) == ("ready", "running", [])
    assert server["disks"][0]["encrypted"] == bool(key)
    assert says(host, server) == {expected}
    computing.becomes_whole(to, host)
    keeping.stop(host)
    assert domain.wait(lambda: not computing.processes_of(host), 10)
    assert says(host, server, len(computing.sums(host, server)) + 3) == {expected}
    with to.catalog.transaction() as transaction:
        assert transaction.execute("SELECT FROM holds").rowcount == 0
        row = transaction.execute("SELECT data_key, disk_key IS NOT NULL AS sealed FROM server_disks").fetchone()
    assert row == {"data_key": None, "sealed": bool(key)}


def test_a_full_copy_needs_no_keeper_and_grows(to, host, small_disk, qemu_img):
    expected = image_of(to, small_disk, key="gold")

    server = create(to, full_copy=True, disk=1)

    assert says(host, server) == {expected}
    assert server["disks"][0] == {**server["disks"][0], "status": "whole", "size": 1 * GiB}
    with pytest.raises(keeping.KeeperError):
        keeping.ask(host, "status")


def test_a_stopped_server_starts_again_with_what_it_has(to, host, small_disk):
    expected = image_of(to, small_disk, endless=True, key="gold")
    server = create(to)

    assert servers.stop(to, "web-1", force=True)["state"] == "stopped"
    with connection.open(host.uri) as libvirt:
        overlay.forget_secret(libvirt, rows.disks(to.catalog, server["id"])[0]["id"])  # as a new start of libvirt does
    assert servers.start(to, "web-1")["state"] == "running"

    assert says(host, server, 2) == {expected}


def test_ten_servers_of_one_image_at_once_fetch_each_chunk_once(to, host, small_disk):
    expected = image_of(to, small_disk)
    chunks = images.find(to.catalog, "one")["allocated_size"]

    with ThreadPoolExecutor(5) as pool:
        made = list(pool.map(lambda number: create(to, name=f"web-{number}"), range(10)))

    assert [says(host, server) for server in made] == [{expected}] * 10
    status = keeping.ask(host, "status")
    assert 0 < status["gets"] <= -(-chunks // (512 * 1024))
    assert status["fetched"] == images.find(to.catalog, "one")["stored_size"]


def test_a_recorded_profile_is_there_before_the_guest_asks(to, host, small_disk):
    from darkroom.compute import profiles

    image_of(to, small_disk)
    image = images.find(to.catalog, "one")["id"]
    with to.catalog.transaction() as transaction:
        profiles.record(transaction, image, 0, [0, 7])
        assert profiles.load(transaction, image, 0) == [0, 7]

    request = request_for()
    found = servers.register(to, request)
    servers.provide(to, found["server"], request, operations.quiet)

    assert domain.wait(lambda: keeping.ask(host, "status")["gets"] == 2, 20)


def test_cloud_init_finds_what_the_user_gave_and_nothing_else(to, host, small_disk, tmp_path):
    image_of(to, small_disk, key="gold")
    server = create(to, name="Web 1.x", ssh_key="ssh-ed25519 AAAA me\n", user_data="#cloud-config\npackages: [jq]\n")

    iso = host.server(server["id"]) / "seed.iso"
    subprocess.run(["xorriso", "-osirrox", "on", "-indev", iso, "-extract", "/", tmp_path / "seed"], check=True)
    assert json.loads((tmp_path / "seed/meta-data").read_text()) == {
        "instance-id": server["id"],
        "local-hostname": "web-1-x",
        "public-keys": ["ssh-ed25519 AAAA me"],
    }
    assert (tmp_path / "seed/user-data").read_text() == "#cloud-config\npackages: [jq]\n"
    with to.catalog.transaction() as transaction:
        assert "packages" not in str(transaction.execute("SELECT request FROM servers").fetchall())


@pytest.mark.parametrize(
    ("given", "wanted", "error"),
    [
        ({"min_ram": 128}, {"memory": 64}, ServerMemoryError),
        ({"max_ram": 128}, {"memory": 256}, ServerMemoryError),
        ({"min_disk": 3}, {"disk": 2}, ServerDiskError),
        ({"boot_mode": "uefi"}, {"boot_mode": "bios"}, BootModeError),
        ({"architecture": "aarch64"}, {}, ArchitectureError),
        ({"sriov": True}, {}, SriovMissingError),
        ({}, {"network": "nowhere"}, NetworkMissingError),
        ({}, {"memory": 16 * 1024 * 1024}, HostFullError),
        ({}, {"cpus": 0}, servers.ServerRequestError),
    ],
)
def test_what_does_not_suit_the_image_or_the_host_is_refused(to, host, small_disk, given, wanted, error):
    image_of(to, small_disk)
    properties(to, **given)

    with pytest.raises(error):
        servers.register(to, request_for(**wanted))

    computing.assert_nothing_left(to, host)


def test_two_at_the_same_moment_do_not_both_get_the_last_memory(to, host, small_disk, monkeypatch):
    image_of(to, small_disk)
    with connection.open(host.uri) as libvirt:
        most = int(libvirt.getInfo()[1] * 0.6)
    both, real = threading.Barrier(2), images.record_event

    def together(*arguments):
        real(*arguments)
        both.wait(30)  # both have their rows, and neither has committed

    def make(number):
        try:
            return servers.register(to, request_for(name=f"web-{number}", memory=most))
        except HostFullError as error:
            return error

    with monkeypatch.context() as patched, ThreadPoolExecutor(2) as pool:
        patched.setattr(images, "record_event", together)
        made = list(pool.map(make, range(2)))

    (refused,) = [each for each in made if isinstance(each, HostFullError)]
    assert refused.expected == f"{most} MiB of memory"
    assert [row["memory"] for row in rows.listed(to.catalog)] == [most]


def test_an_image_that_is_no_system_or_not_active_is_refused(to, host, small_disk, tmp_path):
    image_of(to, small_disk, type="data")
    with pytest.raises(NotBootableError, match="volume create"):
        servers.register(to, request_for())
    with to.catalog.transaction() as transaction:
        images.move(transaction, images.find(to.catalog, "one")["id"], "deactivated")
    with pytest.raises(NotReadableError, match="deactivated"):
        servers.register(to, request_for())


def test_the_image_says_how_the_server_is(to, host, small_disk):
    image_of(to, small_disk, endless=True)
    properties(to, min_ram=96, min_disk=1, boot_mode="uefi", multiqueue=True)

    server = create(to, memory=0, cpus=2, network="none")

    found = {name: server[name] for name in ("memory", "boot_mode", "queues", "network")}
    assert found == {"memory": 2048, "boot_mode": "uefi", "queues": 2, "network": ""}
    assert server["disks"][0]["size"] == 1 * GiB
    with connection.open(host.uri) as libvirt:
        assert "pflash" in domain.lookup(libvirt, server["id"]).XMLDesc()


def test_a_name_is_taken_once_and_the_same_request_is_found_done(to, host, small_disk):
    image_of(to, small_disk, endless=True)
    server = create(to)

    assert create(to)["id"] == server["id"]
    with pytest.raises(rows.ServerNameTakenError):
        servers.register(to, request_for(cpus=2))


def test_another_project_sees_no_server_and_a_member_keeps_its_own_when_unshared(
    to, host, small_disk, catalog_url, home
):
    from darkroom import inbox

    expected = image_of(to, small_disk, key="gold")
    with Catalog(catalog_url, None) as operator, operator.transaction() as transaction:
        create_project(transaction, "acme")
    settings = dataclasses.replace(Settings(), project="acme")
    with open_systems(settings) as acme:
        acme.keys.create("steel")
        inbox.move(acme.catalog, acme.keys, "steel")
        sharing.share(to, "one", "acme")
        with pytest.raises(images.ImageMissingError):
            servers.register(acme, request_for())
        sharing.accept(acme, "one")
        request = request_for()
        found = servers.register(acme, request)
        sharing.unshare(to, "one", "acme")

        servers.provide(acme, found["server"], request, operations.quiet)
        server = servers.boot(acme, found["server"])

        assert says(host, server) == {expected}
        assert rows.listed(to.catalog) == []
        with pytest.raises(rows.ServerMissingError):
            servers.delete(to, server["id"])
        servers.delete(acme, "web-1")


def test_a_row_without_a_hold_opens_nothing(to, host, small_disk):
    """Whoever has an account of a project can write rows; holds are for those alone that see the image."""
    image_of(to, small_disk)
    found = servers.register(to, request_for())
    disk = rows.disks(to.catalog, found["server"])[0]
    with to.catalog.transaction() as transaction:
        transaction.execute("DELETE FROM holds")

    with pytest.raises(keeping.KeeperRefusedError, match="volume-not-found"):
        keeping.serve(to, host, disk["id"])


def test_a_keeper_with_other_systems_is_noticed_by_whoever_needs_it(to, shared_to, host, small_disk, home):
    image_of(to, small_disk, endless=True)
    disk = rows.disks(to.catalog, create(to)["id"])[0]["id"]
    pid = keeping.ask(host, "status")["pid"]
    others = {
        "catalog": dataclasses.replace(to, catalog=shared_to.catalog),
        "object store": dataclasses.replace(to, store=open_object_store(Settings(store_url=str(home / "other")))),
        "key manager": dataclasses.replace(to, keys=open_key_manager(Settings(keys_url=str(home / "other.json")))),
    }

    for name, systems in others.items():
        for ask in (lambda: keeping.serve(systems, host, disk), lambda: keeping.ensure(systems, host)):  # noqa: B023
            with pytest.raises(keeping.KeeperSystemsError, match=f"the same {name}, or end process {pid},"):
                ask()
    os.kill(pid, signal.SIGTERM)
    assert domain.wait(lambda: not keeping.control(host).exists(), 20)
    assert keeping.ensure(to, host)["pid"] != pid


@pytest.mark.parametrize("what", ["store", "keys"])
def test_the_same_bucket_or_region_on_another_server_is_another_system(to, what):
    def identity(endpoint: str) -> dict[str, str]:
        settings = Settings(s3_endpoint_url=endpoint, kms_endpoint_url=endpoint)
        store, keys = open_store("s3://images/one", settings, KEYS), open_keys("aws-kms://x", settings, KEYS)
        named = dataclasses.replace(to, **{what: {"store": store, "keys": keys}[what]})
        return identity_of(named.catalog, named.store, named.keys)

    assert identity("http://one:1") == identity("http://one:1") != identity("http://two:1")


def test_a_rotated_key_still_opens_the_disks_that_are_under_it(to, host, small_disk):
    expected = image_of(to, small_disk, endless=True, key="gold")
    server = create(to)
    servers.stop(to, "web-1", force=True)

    keyring.rotate(to, "gold", operations.quiet)
    computing.kill_keeper(host)
    servers.start(to, "web-1")

    assert says(host, server, 2) == {expected}


def test_tending_starts_the_keeper_and_removes_what_was_given_up(to, host, small_disk, catalog_url):
    expected = image_of(to, small_disk, endless=True)
    server = create(to)
    begun = servers.register(to, request_for(name="web-2"))
    with Catalog(catalog_url, None) as operator, operator.transaction() as transaction:
        query = "UPDATE servers SET created_at = now() - interval '2 days', holder = 'other boot 1 1' WHERE id = %s"
        transaction.execute(query, (begun["server"],))
    with to.catalog.transaction() as transaction:
        assert rows.given_up(transaction, "servers") == []  # on another host, for all that is known
        transaction.execute(
            "UPDATE servers SET holder = %s WHERE id = %s", (f"{os.uname().nodename} boot 1 1", begun["server"])
        )
        assert [row["name"] for row in rows.given_up(transaction, "servers")] == ["web-2"]
    keeping.stop(host)

    assert tending.tend(to) == {"hosts": ["kvm1"], "removed": ["web-2"]}

    assert says(host, server) == {expected}
    computing.becomes_whole(to, host)
