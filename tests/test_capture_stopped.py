"""Capture of servers that Darkroom made while they are stopped: sealed files, and files that have not all yet."""

import hashlib
import subprocess
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import pytest

from darkroom import qemu, servers
from darkroom.catalog import images
from darkroom.catalog import servers as rows
from darkroom.compute import atrest, connection, diskkeys, domain, keeping, overlay, serving
from darkroom.compute.domain import Disk
from darkroom.errors import DarkroomError
from darkroom.model import CHUNK_SIZE, MiB
from tests import computing
from tests.computing import create, image_of
from tests.test_capture import capture, content, told, write

WRITTEN = b"A" * 64 * 1024
AT = 1 * MiB


@pytest.fixture
def host(compute_host):
    return compute_host


@pytest.fixture
def stopped(to, host, small_disk):
    """Make a server that has written to its disk and was stopped, `whole` or before that; what its disk has then."""

    def make(key="", whole=False):
        image_of(to, small_disk, endless=True, key=key)
        made = create(to)
        if whole:
            computing.becomes_whole(to, host)
        with connection.open(host.uri) as libvirt:
            write(libvirt, SimpleNamespace(uuid=UUID(made["id"])), "vda", AT, WRITTEN[0], len(WRITTEN))
        servers.stop(to, "web-1", force=True)
        expected = bytearray(small_disk.read_bytes())
        expected[AT : AT + len(WRITTEN)] = WRITTEN
        return bytes(expected)

    return make


@pytest.fixture
def path(to, host):
    """Where the file of the server's disk is."""
    return lambda: host.disk(rows.disks(to.catalog, rows.find_server(to.catalog, "web-1")["id"])[0]["id"])


def take(to, name="golden", **fields):
    return capture(to, SimpleNamespace(name="web-1"), name, **fields)


def guest_visible(to, path, target):
    """The sha256 of what qemu-img makes of the file of a whole disk, with its key."""
    key = diskkeys.disk_key(to, UUID(path.stem))
    with qemu.secret(overlay.passphrase(key)) as (options, descriptors):
        opened = f"driver=qcow2,encrypt.key-secret=key,file.filename={path}"
        words = ["qemu-img", "convert", *options, "--image-opts", "-O", "raw", opened, str(target)]
        subprocess.run(words, pass_fds=descriptors, check=True)
    return hashlib.sha256(target.read_bytes()).hexdigest()


def test_what_a_disk_has_not_yet_comes_from_its_image_and_nobody_starts_it_meanwhile(to, host, stopped, path):
    expected = stopped("gold")
    assert serving.has_backing(path())
    keeping.stop(host)
    errors = []

    def during(done, total):
        if not errors:
            with pytest.raises(DarkroomError) as caught:
                servers.start(to, "web-1")
            errors.append(str(caught.value))

    image = take(to, during=during)

    assert content(to, image) == expected
    assert images.get(to.catalog, image)["key_name"] == "gold"
    assert told(to, image)["consistency"] == "crash"
    assert "lock" in errors[0]
    assert servers.start(to, "web-1")["state"] == "running"


def test_a_sealed_disk_is_captured_and_its_key_is_nowhere_in_the_clear(to, host, stopped, path, home, tmp_path):
    expected = stopped("gold", whole=True)
    key = diskkeys.disk_key(to, UUID(path().stem))
    secrets = [key, overlay.passphrase(key), WRITTEN[:4096]]
    readers = []

    def during(done, total):
        found = processes()
        readers.extend(words for words, _ in found if "qemu-nbd" in words)
        assert not [words for words, all_ in found if any(secret in all_ for secret in secrets)]
        assert not [file for file in home.rglob("*") if file.is_file() and has_any(file, secrets)]

    image = take(to, during=during)

    assert readers
    assert all("secret,id=key,file=/dev/fd/" in words for words in readers)
    assert hashlib.sha256(content(to, image)).hexdigest() == guest_visible(to, path(), tmp_path / "seen.raw")
    assert content(to, image) == expected

    server = servers.start(to, "web-1")
    take(to, "running")
    with connection.open(host.uri) as libvirt:
        write(libvirt, SimpleNamespace(uuid=UUID(server["id"])), "vda", 0, 66)
    servers.stop(to, "web-1", force=True)
    later = take(to, "later", since="running")
    assert told(to, later)["changed_size"] == CHUNK_SIZE
    assert hashlib.sha256(content(to, later)).hexdigest() == guest_visible(to, path(), tmp_path / "later.raw")


def processes():
    """The command line of each process, and with it its environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words, environment = ((entry / name).read_bytes() for name in ("cmdline", "environ"))
            except OSError:
                continue
            found.append((words.replace(b"\0", b" ").decode(errors="replace"), words + environment))
    return found


def has_any(file, secrets):
    data = file.read_bytes()
    return any(secret in data for secret in secrets)


def test_a_plain_disk_is_read_over_its_image_and_over_nothing_else(to, host, stopped, path, tmp_path, qemu_img):
    expected = stopped()
    assert content(to, take(to)) == expected
    secret, theirs = tmp_path / "secret", tmp_path / "theirs.qcow2"
    secret.write_bytes(b"of the host" * 100_000)
    qemu_img("create", "-q", "-f", "qcow2", "-F", "raw", "-b", secret, theirs)
    with connection.open(host.uri) as libvirt:  # what others gave to a server of ours is read as theirs
        domain.attach(libvirt, rows.find_server(to.catalog, "web-1")["id"], Disk(theirs, "qcow2", "vdc"))
    with pytest.raises(atrest.DiskKindError, match="external-reference"):
        take(to, "theirs", disk="vdc")
    # A guest that broke into its QEMU writes to the file as QEMU does.
    qemu_img("rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", secret, path())
    with pytest.raises(atrest.DiskKindError, match=str(secret)):
        take(to, "evil")
