"""Domains on a private libvirt: what a compute host does for servers, proofs and captures."""

from uuid import uuid4

import pytest

from darkroom.compute import connection, domain, probe
from darkroom.compute.connection import DomainMissingError, HostError, HostUnavailableError
from darkroom.compute.domain import Disk, Domain
from tests import guests, hosts


@pytest.fixture
def host(libvirt_uri):
    with connection.open(libvirt_uri) as found:
        yield found
    assert hosts.domains(libvirt_uri) == []


@pytest.fixture
def guest(host, tmp_path, small_disk):
    """Make a domain of a disk that boots; it is removed at the end."""
    made = []

    def make(disks=(), endless=False, **fields):
        guests.bootable(small_disk, endless=endless)
        found = (Disk(small_disk, "raw"), *disks)
        made.append(Domain(uuid4(), f"test-{len(made)}", found, "tcg", console=tmp_path / "console", **fields))
        return made[-1]

    yield make
    for each in made:
        domain.remove(host, each.uuid)


def says(path, text, seconds=90):
    return domain.wait(lambda: path.exists() and text in path.read_text(errors="replace"), seconds)


def test_a_guest_reads_its_disk_writes_to_the_console_and_ends(host, guest, small_disk, tmp_path):
    made = guest(memory=64)
    expected = guests.checksum(small_disk.read_bytes())

    domain.start(host, made)

    assert says(tmp_path / "console", expected)
    assert domain.wait(lambda: domain.state(host, made.uuid) == ("stopped", ""), 30)
    domain.remove(host, made.uuid)
    with pytest.raises(DomainMissingError):
        domain.state(host, made.uuid)


def test_a_running_guest_shows_its_screen_as_png_and_stops(host, guest, tmp_path):
    made = guest(endless=True, network="user", cpus=2)
    domain.start(host, made)
    assert says(tmp_path / "console", "s")

    assert domain.is_running(host, made.uuid)
    assert domain.screenshot(host, made.uuid).startswith(b"\x89PNG")
    domain.start(host, made)  # twice is once
    domain.stop(host, made.uuid)

    assert not domain.is_running(host, made.uuid)
    assert domain.exists(host, made.uuid)
    domain.resume(host, made.uuid)
    assert domain.is_running(host, made.uuid)


def test_a_guest_of_uefi_keeps_its_variables_until_it_is_removed(host, guest, tmp_path):
    made = guest(uefi=tmp_path / "vars.fd")
    domain.start(host, made)
    assert (tmp_path / "vars.fd").stat().st_size > 0

    domain.remove(host, made.uuid)

    assert not (tmp_path / "vars.fd").exists()


def test_a_disk_is_what_the_domain_says_and_never_probed(host, guest, tmp_path, qemu_img):
    """A raw disk into which a guest wrote the header of a qcow2 with a backing file is still raw."""
    qemu_img("create", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd", "-u", tmp_path / "evil", "1M")
    made = guest([Disk(tmp_path / "evil", "raw", "vdb")], endless=True)

    domain.start(host, made)

    assert domain.lookup(host, made.uuid).blockInfo("vdb")[0] < 1 << 20  # the file, not the disk that it claims to hold
    assert "/etc/passwd" not in domain.lookup(host, made.uuid).XMLDesc()


def test_what_libvirt_refuses_says_why_and_leaves_nothing(host, guest, tmp_path):
    made = guest(network="nowhere")
    with pytest.raises(HostError, match="nowhere"):
        domain.start(host, made)
    domain.remove(host, made.uuid)
    domain.remove(host, made.uuid)

    assert not domain.exists(host, made.uuid)


def test_a_libvirt_that_does_not_run_is_told(tmp_path):
    with pytest.raises(HostUnavailableError, match="start libvirtd"):
        with connection.open(f"qemu+unix:///system?socket={tmp_path}/none"):
            pass


def test_the_accelerator_is_proved_by_a_guest(host, tmp_path, monkeypatch):
    assert probe.accelerator(host, tmp_path) in ("kvm", "tcg")
    monkeypatch.setattr(probe, "MARKER", "what no sector says")
    monkeypatch.setattr(probe, "_TCG", 1.0)
    monkeypatch.setattr(probe, "_KVM", 1.0)

    assert probe.accelerator(host, tmp_path) == ""


def test_a_small_linux_boots_to_its_login(host, demo_disk, tmp_path, qemu_img):
    from demo import disk

    qemu_img("create", "-f", "qcow2", "-F", "raw", "-b", demo_disk, tmp_path / "overlay")
    made = Domain(uuid4(), "demo", (Disk(tmp_path / "overlay", "qcow2"),), "tcg", console=tmp_path / "console")
    try:
        domain.start(host, made)
        assert says(tmp_path / "console", disk.MARKER)
    finally:
        domain.remove(host, made.uuid)
