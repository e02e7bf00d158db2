"""QEMU under an account of its own, with libvirt giving it the files, as distributions have it: all that servers do."""

import os
import pwd
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import pytest

from darkroom import proving, servers, volumes
from darkroom.compute import checks, connection
from darkroom.proving import ProofRequest
from darkroom.volumes import VolumeRequest
from tests import computing, guests, hosts, operations
from tests.computing import create, image_of, says
from tests.test_capture import capture, content, write

USER = "libvirt-qemu"
AT = 1 << 20


@pytest.fixture(scope="module")
def libvirt_uri(short_folder):
    with hosts.libvirtd(short_folder / "account", Path("build/libvirt-account").absolute(), USER) as uri:
        yield uri


@pytest.fixture
def host(to, catalog_url, libvirt_uri, home, short_folder):
    """A compute host whose storage QEMU's account passes through, and lists nowhere."""
    short_folder.chmod(0o711)
    home.chmod(0o711)
    with computing.host(to, catalog_url, libvirt_uri, home / "host", "default") as found:
        yield found
    short_folder.chmod(0o700)


def account_of(server):
    """The account under which the QEMU of a server runs."""
    name = f"guest={server['name']}-{UUID(server['id']).hex[:8]}"  # other test runs have servers of the same name
    found = subprocess.run(["pgrep", "-f", name], capture_output=True, text=True, check=True)
    return pwd.getpwuid(os.stat(f"/proc/{found.stdout.strip()}").st_uid).pw_name


def disk_of(server, host):
    return host.disk(UUID(server["disks"][0]["id"]))


def test_the_life_of_a_sealed_server_and_of_its_volume(to, host, small_disk, tmp_path):
    data = shutil.copy(small_disk, tmp_path / "data.raw")
    operations.import_image(to, data, name="data", type="data", format="raw")
    expected = image_of(to, small_disk, endless=True, key="gold")
    changed = bytearray(small_disk.read_bytes())
    changed[AT : AT + 64 * 1024] = b"A" * 64 * 1024
    named = SimpleNamespace(name="web-1")

    server = create(to)
    assert account_of(server) == USER
    assert (disk_of(server, host).owner(), disk_of(server, host).stat().st_mode & 0o777) == (USER, 0o600)
    assert says(host, server) == {expected}
    assert servers.screenshot(to, "web-1").startswith(b"\x89PNG")
    with connection.open(host.uri) as libvirt:
        write(libvirt, SimpleNamespace(uuid=UUID(server["id"])), "vda", AT, 65)
    servers.stop(to, "web-1", force=True)
    assert content(to, capture(to, named, "before-it-is-whole")) == changed

    servers.start(to, "web-1")
    made = volumes.register(to, VolumeRequest("data", "data-1"))
    volumes.provide(to, made["volume"], operations.quiet)
    volumes.attach(to, "data-1", "web-1")
    computing.becomes_whole(to, host)
    for name in ("running", "stopped"):
        image = capture(to, named, name, all_disks=True, key="gold")
        assert (content(to, image), content(to, image, 1)) == (changed, data.read_bytes())
        servers.stop(to, "web-1", force=True)
    assert volumes.detach(to, "data-1")["server"] is None
    assert servers.start(to, "web-1")["state"] == "running"
    assert volumes.attach(to, "data-1", "web-1")["server"] == "web-1"


def test_a_server_installs_from_a_sealed_medium(to, host, tmp_path):
    operations.import_image(to, guests.medium(tmp_path / "tiny.iso", guests.says("login: ")), key="gold")

    server = create(to)

    assert Path(server["screen"]).owner() == USER
    assert computing.writes(to, "web-1", b"installed")


def test_a_plain_server_boots_by_uefi_twice(to, host, small_disk):
    image_of(to, small_disk, endless=True)
    server = create(to, boot_mode="uefi")

    assert host.server(server["id"]).joinpath("uefi.fd").exists()
    servers.stop(to, "web-1", force=True)
    assert servers.start(to, "web-1")["state"] == "running"


def test_a_boot_is_proved(to, host, tmp_path):
    disk = tmp_path / "prompt.raw"
    disk.write_bytes(guests.says("web login: ").ljust(8 << 20, b"\0"))
    image = operations.import_image(to, disk, key="gold", format="raw")

    assert proving.prove(to, image, ProofRequest(seconds=60), operations.quiet)["booted"]


def test_the_host_is_fit_and_folders_that_are_not_are_named(host, monkeypatch):
    found = {finding.what: finding for finding in checks.check(host)}

    assert found["rights"].found == f"QEMU runs as user {pwd.getpwnam(USER).pw_uid}"
    assert checks.is_usable(list(found.values()))
    host.storage.parent.chmod(0o700)
    monkeypatch.setattr(checks.probe, "accelerator", lambda *_: "")  # as it would find, in a minute
    found = {finding.what: finding for finding in checks.check(host)}
    assert found["rights"].remedy.startswith(f"chmod o+x {host.storage.parent}")
