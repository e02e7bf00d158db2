"""Volumes: they become whole without a guest, and go to a server and back."""

import subprocess
from uuid import UUID

import pytest

from darkroom import deleting, qemu, servers, volumes
from darkroom.catalog import images
from darkroom.catalog import servers as rows
from darkroom.compute import connection, diskkeys, domain, keeping, overlay
from darkroom.compute.connection import DomainBusyError
from darkroom.placing import ServerDiskError
from darkroom.volumes import VolumeAttachedError, VolumeRequest, VolumeRequestError
from tests import computing, operations
from tests.computing import create, image_of, says


@pytest.fixture
def host(compute_host):
    return compute_host


@pytest.fixture
def data(to, raw_disk):
    operations.import_image(to, raw_disk, name="data", type="data", format="raw", key="gold")
    return raw_disk


def make(to, name="data-1", image="data", **fields):
    request = VolumeRequest(image, name, **fields)
    found = volumes.register(to, request)
    return volumes.provide(to, found["volume"], operations.quiet, full_copy=request.full_copy)


def whole(to, host, name="data-1", seconds=60):
    done = domain.wait(lambda: volumes.describe(to, name)["status"] == "whole", seconds)
    assert done, (host.run / "keeper.log").read_text()


def content_is(to, host, name, disk):
    """Compare with qemu-img, which opens the file with its key."""
    row = rows.find_volume(to.catalog, name)
    path = host.disk(row["id"])
    with qemu.secret(overlay.passphrase(diskkeys.disk_key(to, row["id"]))) as (options, descriptors):
        opened = f"driver=qcow2,encrypt.key-secret=key,file.filename={path}"
        words = ["qemu-img", "compare", *options, "--image-opts", opened, f"driver=raw,file.filename={disk}"]
        done = subprocess.run(words, capture_output=True, text=True, pass_fds=descriptors, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize("full_copy", [False, True])
def test_a_volume_becomes_whole_by_itself_and_has_the_bytes_of_the_image(to, host, data, full_copy):
    made = make(to, full_copy=full_copy)
    assert (made["status"], made["encrypted"]) == ("whole" if full_copy else "lazy", True)
    deleting.delete(to, "data")

    whole(to, host)

    assert "Images are identical" in content_is(to, host, "data-1", data)
    assert make(to, full_copy=full_copy)["id"] == made["id"]


def test_a_running_server_gets_a_volume_and_both_become_whole(to, host, data, small_disk):
    expected = image_of(to, small_disk, endless=True)
    server = create(to)
    make(to)

    attached = volumes.attach(to, "data-1", "web-1")
    assert (attached["server"], attached["target"]) == ("web-1", "vdb")
    assert volumes.attach(to, "data-1", "web-1")["target"] == "vdb"
    with pytest.raises(VolumeAttachedError):
        volumes.delete(to, "data-1")
    computing.becomes_whole(to, host)

    assert says(host, server, 2) == {expected}
    assert [disk["volume"] for disk in servers.describe(to, "web-1")["disks"]] == [None, "data-1"]
    servers.delete(to, "web-1")
    assert volumes.describe(to, "data-1")["server"] is None
    assert "Images are identical" in content_is(to, host, "data-1", data)


def test_a_guest_that_does_not_let_go_keeps_the_volume_until_it_is_stopped(to, host, data, small_disk, monkeypatch):
    monkeypatch.setattr(domain, "_LET_GO", 0.5)
    image_of(to, small_disk, endless=True)
    create(to)
    make(to, full_copy=True)
    volumes.attach(to, "data-1", "web-1")
    with pytest.raises(DomainBusyError):
        volumes.detach(to, "data-1")
    assert volumes.describe(to, "data-1")["server"] == "web-1"

    servers.stop(to, "web-1", force=True)
    detached = volumes.detach(to, "data-1")

    assert (detached["server"], detached["target"]) == (None, None)
    with connection.open(host.uri) as libvirt:
        assert not domain.has_disk(libvirt, rows.find_server(to.catalog, "web-1")["id"], "vdb")


def test_what_does_not_fit_is_refused(to, host, data, small_disk):
    operations.import_image(to, small_disk, name="small", type="data", format="raw")
    with pytest.raises(VolumeRequestError):
        volumes.register(to, VolumeRequest("data", "data-1", number=3))
    with pytest.raises(images.ImageMissingError):
        volumes.register(to, VolumeRequest("nowhere", "data-1"))
    with to.catalog.transaction() as transaction:
        transaction.execute("UPDATE disks SET virtual_size = %s", (3 << 30,))
    with pytest.raises(ServerDiskError):
        volumes.register(to, VolumeRequest("small", "data-1", size=2))


def test_cancelled_or_deleted_at_any_point_nothing_is_left(to, host, data):
    volumes.register(to, VolumeRequest("data", "data-1"))
    volumes.cancel(to, "data-1")
    computing.assert_nothing_left(to, host)
    volumes.cancel(to, "data-1")

    make(to, "data-2")
    volumes.delete(to, "data-2")

    computing.assert_nothing_left(to, host)


def test_a_volume_that_is_gone_is_not_served_on(to, host, data):
    """As if the keeper could not be told when it was deleted."""
    made = make(to)
    with to.catalog.transaction() as connection:
        connection.execute("DELETE FROM server_disks WHERE id = %s", (made["id"],))
        connection.execute("DELETE FROM holds WHERE holder = %s", (made["id"],))

    assert domain.wait(lambda: keeping.ask(host, "status")["disks"] == [], 20)
    assert domain.wait(lambda: not keeping.proxy_socket(host, UUID(made["id"])).exists(), 20)
    host.disk(UUID(made["id"])).unlink()
