"""Servers whose image, store, keeper or creator goes away in the middle; the guest must notice nothing."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from darkroom import crypto, deleting, download, hostdisks, manifest, servers
from darkroom.catalog import images
from darkroom.catalog import servers as rows
from darkroom.compute import connection, diskkeys, domain, keeping
from darkroom.settings import Settings
from darkroom.systems import open_systems
from tests import computing, hosts, operations
from tests.computing import create, image_of, request_for, says
from tests.conftest import make_disk

KILLED = """
import os, sys
from darkroom import servers, hostdisks
from darkroom.settings import Settings
from darkroom.systems import open_systems
from darkroom.compute import domain, keeping, overlay
from tests import computing
at = sys.argv[1]
def around(module, name):
    real = getattr(module, name)
    def call(*arguments, **options):
        if at == "before " + name:
            os.kill(os.getpid(), 9)
        result = real(*arguments, **options)
        if at == "after " + name:
            os.kill(os.getpid(), 9)
        return result
    setattr(module, name, call)
for module, name in ((servers, "register"), (keeping, "serve"), (overlay, "create"), (overlay, "copying"),
        (servers, "provide"), (domain, "start")):
    around(module, name)
with open_systems(Settings()) as to:
    computing.create(to, full_copy="copying" in at)
"""


@pytest.fixture
def host(compute_host):
    return compute_host


@pytest.fixture
def large_disk(tmp_path):
    """A disk that a guest reads for some seconds."""
    return make_disk(tmp_path / "large.raw", 16 << 20)


def test_a_keeper_that_is_killed_in_mid_boot_comes_back_and_the_guest_goes_on(to, host, large_disk):
    expected = image_of(to, large_disk, key="gold")
    server = create(to)
    killed = [computing.kill_keeper(host)]

    assert domain.wait(lambda: keeping_pid(host) not in (None, *killed), 30)
    killed.append(computing.kill_keeper(host))

    assert says(host, server) == {expected}
    assert keeping_pid(host) not in killed


def keeping_pid(host):
    try:
        return keeping.ask(host, "status")["pid"]
    except keeping.KeeperError:
        return None


def test_a_proxy_that_is_killed_stops_the_guest_and_it_is_resumed(to, host, large_disk):
    """QEMU gets the error, and the guest does not."""
    expected = image_of(to, large_disk)
    server = create(to)
    disk = rows.disks(to.catalog, server["id"])[0]["id"]
    hosts.kill(int(keeping.proxy_socket(host, disk).with_suffix(".pid").read_text()))

    assert says(host, server) == {expected}


def test_a_store_that_is_down_for_a_while_makes_the_guest_wait(
    catalog_url, home, s3_server, bucket, monkeypatch, large_disk, request
):
    monkeypatch.setenv("DARKROOM_STORE_URL", f"s3://{bucket}/images")
    with open_systems(Settings()) as to:
        request.getfixturevalue("to")  # for its keys
        host = request.getfixturevalue("compute_host")
        expected = image_of(to, large_disk)
        wanted = request_for()
        found = servers.register(to, wanted)
        servers.provide(to, found["server"], wanted, operations.quiet)
        s3_server.kill()
        try:
            server = servers.boot(to, found["server"])
            assert not domain.wait(lambda: computing.sums(host, server), 8)
            with connection.open(host.uri) as libvirt:
                assert domain.state(libvirt, server["id"]) == ("running", "")
        finally:
            s3_server.start()

        assert says(host, server) == {expected}


def test_the_image_is_deleted_and_purged_while_a_server_reads_from_it(to, host, large_disk):
    expected = image_of(to, large_disk, key="gold", endless=True)
    server = create(to)

    deleting.delete(to, "one")
    assert deleting.purge(to, server["image"])["outcome"] == "held"
    computing.kill_keeper(host)  # which must open it again, deleted as it is

    assert says(host, server, 2) == {expected}
    computing.becomes_whole(to, host)
    assert deleting.purge(to, server["image"])["outcome"] == "purged"
    assert list(to.store.list(f"images/{server['image']}")) == []
    assert says(host, server, len(computing.sums(host, server)) + 2) == {expected}


def test_nothing_of_an_encrypted_image_is_on_the_host_in_the_clear(to, host, large_disk, libvirt_uri):
    line = b"this is what nobody may read "
    with open(large_disk, "r+b") as file:
        file.seek(1 << 20)
        file.write(line * 4096)
    image_of(to, large_disk, key="gold", endless=True)
    image = images.find(to.catalog, "one")
    server = create(to)
    says(host, server)
    disk = rows.disks(to.catalog, server["id"])[0]["id"]
    keys = [diskkeys.data_key(to, disk), diskkeys.disk_key(to, disk)]
    table = manifest.read(to.store, image["id"], 0, rows.disks(to.catalog, server["id"])[0]["manifest_digest"])
    reader = download.DiskReader(to.store, table, keys[0])
    keys += [crypto._chunk_key(ref.digest) for ref in reader.refs(0)] + [ref.digest for ref in reader.refs(0)]
    reader.close()
    computing.becomes_whole(to, host)

    folders = (host.storage, Path(libvirt_uri.partition("socket=")[2]).parent.parent)
    needles = [line * 2, *keys, *(key.hex().encode() for key in keys)]
    looked = 0
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        looked += len(data)
        assert [needle for needle in needles if needle in data] == [], path
    for entry in processes():
        for name in ("cmdline", "environ"):
            data = (entry / name).read_bytes()
            assert [needle for needle in needles if needle in data] == [], entry
    assert looked > 4 << 20


def processes():
    for entry in Path("/proc").iterdir():
        words = b"qemu-system", b"nbdkit", b"darkroom.compute.keeper", b"libvirtd"
        try:
            if entry.name.isdigit() and any(word in (entry / "cmdline").read_bytes() for word in words):
                (entry / "environ").read_bytes()
                yield entry
        except OSError:
            continue


@pytest.mark.parametrize(
    "at",
    [
        "after register",
        "before serve",
        "before create",
        "after create",
        "after copying",
        "after provide",
        "after start",
    ],
)
def test_killed_anywhere_the_same_request_ends_it_and_delete_leaves_nothing(to, host, small_disk, at):
    expected = image_of(to, small_disk, key="gold")
    child = subprocess.run([sys.executable, "-c", KILLED, at], check=False)
    assert child.returncode == -signal.SIGKILL

    if at in ("after register", "after copying", "after start"):
        server = create(to, full_copy="copying" in at)
        assert says(host, server) == {expected}
    elif at == "before create":
        servers.cancel(to, "web-1")
        assert rows.listed(to.catalog) == []
    else:
        servers.delete(to, "web-1")


def test_deleted_in_the_middle_of_the_background_copy_nothing_is_left(to, host, large_disk):
    image_of(to, large_disk, endless=True)
    server = create(to)
    disk = rows.disks(to.catalog, server["id"])[0]

    def copying():
        with connection.open(host.uri) as libvirt:
            return domain.hydration(libvirt, server["id"], "vda") or not domain.exists(libvirt, server["id"])

    assert domain.wait(copying, 60)
    servers.delete(to, "web-1")

    computing.assert_nothing_left(to, host)
    assert not [words for words in computing.processes_of(host) if disk["id"].hex in words]


def test_one_that_another_process_creates_cannot_be_deleted_under_its_hands(to, host, small_disk):
    image_of(to, small_disk)
    found = servers.register(to, request_for())
    other = f"{os.uname().nodename} {boot()} 1 {started(1)}"
    with to.catalog.transaction() as transaction:
        transaction.execute("UPDATE servers SET holder = %s", (other,))

    with pytest.raises(rows.ServerBusyError):
        servers.delete(to, found["server"])

    with to.catalog.transaction() as transaction:
        transaction.execute("UPDATE servers SET holder = NULL")


def boot():
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def started(pid):
    return re.split(r"\) ", Path(f"/proc/{pid}/stat").read_text())[-1].split()[19]


def test_a_disk_that_cannot_be_made_leaves_nothing_but_the_reason(to, host, small_disk, monkeypatch):
    image_of(to, small_disk)
    request = request_for()
    found = servers.register(to, request)
    monkeypatch.setattr(hostdisks.overlay, "create", broken)
    with pytest.raises(hostdisks.overlay.OverlayError) as caught:
        servers.provide(to, found["server"], request, operations.quiet)

    servers.fail(to, found["server"], str(caught.value))

    computing.assert_nothing_left(to, host)
    with to.catalog.transaction() as transaction:
        events = transaction.execute("SELECT outcome, reason FROM events WHERE operation = 'create server'").fetchall()
    assert [event["outcome"] for event in events] == ["started", "failed"]
    assert "the disk is full" in events[1]["reason"]


def broken(path, *_):
    raise hostdisks.overlay.OverlayError(str(path), "", "the disk is full")
