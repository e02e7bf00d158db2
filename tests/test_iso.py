"""Installation media: an ISO becomes an image, a server installs from it, and what it installed is captured."""

import socket
import struct

import pytest

from darkroom import capturing, creation, formats, proving, servers
from darkroom.capturing import CaptureRequest
from darkroom.catalog import images
from darkroom.compute import domain
from darkroom.model import GiB, MiB
from darkroom.placing import BootModeError, ServerDiskError
from darkroom.proving import ProofRequest
from darkroom.rawdisk import RawDisk
from darkroom.settings import Limits
from tests import computing, guests, operations
from tests.computing import create


@pytest.fixture
def host(compute_host):
    return compute_host


@pytest.fixture
def iso(tmp_path):
    return guests.medium(tmp_path / "tiny.iso", guests.says("debian login: "))


def prove(to, image, text=""):
    return proving.prove(to, image, ProofRequest(text=text, seconds=120), operations.quiet)


@pytest.mark.parametrize("key", ["", "gold"])
def test_a_server_installs_from_an_iso_and_becomes_an_image_that_boots(to, host, iso, key):
    medium = operations.import_image(to, iso, key=key)
    assert images.get(to.catalog, medium)["type"] == "iso"

    server = create(to, disk=3)
    with socket.socket(socket.AF_UNIX) as screen:
        screen.connect(server["screen"])
        assert screen.recv(4) == b"RFB "  # RFC 6143, 7.1.1
    assert computing.writes(to, "web-1", b"installed")
    assert domain.wait(lambda: servers.describe(to, "web-1")["state"] == "stopped", 20)
    shown = [(disk["target"], disk["size"], disk["medium"], disk["encrypted"]) for disk in server["disks"]]
    assert shown == [("vda", 3 * GiB, False, bool(key)), ("sda", iso.stat().st_size, True, bool(key))]

    image = capturing.register(to, CaptureRequest(server="web-1", name="golden", all_disks=True))["image"]
    creation.create_data_key(to, image)
    capturing.take(to, image, operations.quiet)
    creation.activate(to, image)
    row = images.get(to.catalog, image)
    assert (row["type"], row["virtual_size"], row["key_name"]) == ("system", 3 * GiB, key or None)
    assert prove(to, image)["how"]

    # It starts from its disk from now on, and the medium becomes whole while it runs.
    servers.start(to, "web-1")
    assert computing.writes(to, "web-1", b"login:")
    computing.becomes_whole(to, host)
    servers.delete(to, "web-1")
    computing.assert_nothing_left(to, host)


def test_the_medium_itself_is_proved_and_goes_out_as_it_came_in(to, host, iso, tmp_path):
    medium = operations.import_image(to, iso, key="gold")

    assert prove(to, medium, "no disk")["how"]  # there is only the medium
    result = operations.export_image(to, medium, tmp_path / "again.iso", "")

    assert result["format"] == "raw"
    assert (tmp_path / "again.iso").read_bytes() == iso.read_bytes()


def test_the_disk_is_as_large_as_the_image_says_and_starts_as_the_medium_does(to, host, iso):
    operations.import_image(to, iso, min_disk=5)

    with pytest.raises(ServerDiskError):
        servers.register(to, computing.request_for(disk=4))
    with pytest.raises(BootModeError):
        servers.register(to, computing.request_for(boot_mode="uefi"))
    server = servers.register(to, computing.request_for())["server"]

    assert [disk["size"] for disk in servers.describe(to, server)["disks"]] == [5 * GiB, iso.stat().st_size]


def inspected(path):
    with path.open("rb") as file:
        return formats.inspect(RawDisk(file.fileno(), path.name), "iso", path.name, Limits())


def patched(iso, offset, value):
    content = bytearray(iso.read_bytes())
    content[offset : offset + len(value)] = value
    iso.write_bytes(content)


def catalog_at(iso):
    """Where the boot catalog begins: the boot record is the second descriptor."""
    return struct.unpack_from("<I", iso.read_bytes(), 17 * 2048 + 71)[0] * 2048


def test_a_medium_that_was_cut_off_is_refused(iso):
    assert inspected(iso).subformat == "bios"
    with open(iso, "r+b") as file:
        file.truncate(2 * MiB)

    with pytest.raises(formats.HeaderInvalidError, match="it was cut off"):
        inspected(iso)


def for_both(iso):
    """Have the boot catalog name an image for UEFI, too; where the catalog is."""
    at = catalog_at(iso)
    section = struct.pack("<BBH28x", 0x91, 0xEF, 1) + struct.pack("<BBHBBHI20x", 0x88, 0, 0, 0, 0, 8, 40)
    patched(iso, at + 64, section)
    return at


def test_a_medium_for_both_starts_in_either_way(to, host, iso):
    for_both(iso)
    operations.import_image(to, iso)

    assert create(to, boot_mode="uefi")["state"] == create(to, name="web-2", boot_mode="bios")["state"] == "running"


def test_a_medium_that_boots_by_uefi_says_so_and_one_that_does_not_boot_is_refused(iso):
    at = for_both(iso)
    assert inspected(iso).subformat == "bios and uefi"

    patched(iso, at + 32, b"\0")
    assert inspected(iso).subformat == "uefi"

    patched(iso, at + 96, b"\0")
    with pytest.raises(formats.MediumError):
        inspected(iso)


@pytest.mark.parametrize(("behind", "value"), [(0, b"\2"), (30, b"\0"), (4, b"x"), (40, b"\xff\xff\xff\x7f")])
def test_a_boot_catalog_that_cannot_be_is_refused(iso, behind, value):
    patched(iso, catalog_at(iso) + behind, value)

    with pytest.raises(formats.HeaderInvalidError):
        inspected(iso)
