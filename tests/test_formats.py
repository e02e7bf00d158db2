import json
import os
import subprocess

import numpy as np
import pytest

from darkroom import formats
from darkroom.formats import crc32c, fields, tables
from darkroom.model import GiB, KiB, MiB, TiB
from darkroom.rawdisk import RawDisk
from darkroom.settings import Limits

DRIVERS = {"vhd": "vpc"}
KINDS = [
    ("raw", "", ""),
    ("qcow2", "compat=0.10", "v2"),
    ("qcow2", "compat=1.1", "v3"),
    ("qcow2", "compat=1.1,lazy_refcounts=on", "v3"),
    ("qcow2", "cluster_size=512", "v3"),
    ("qcow2", "cluster_size=2M", "v3"),
    ("qcow2", "extended_l2=on", "v3"),
    ("qcow2", "compression_type=zstd", "v3"),
    ("qcow2", "refcount_bits=1", "v3"),
    ("qcow2", "refcount_bits=64", "v3"),
    ("qcow2", "preallocation=metadata", "v3"),
    ("qcow2", "preallocation=falloc", "v3"),
    ("qcow", "", "v1"),
    ("qed", "", ""),
    ("qed", "cluster_size=4k,table_size=4", ""),
    ("vmdk", "", "monolithicSparse"),
    ("vmdk", "zeroed_grain=on", "monolithicSparse"),
    ("vmdk", "compat6=on", "monolithicSparse"),
    ("vmdk", "subformat=streamOptimized", "streamOptimized"),
    ("vhd", "", "dynamic"),
    ("vhd", "force_size=on", "dynamic"),
    ("vhd", "subformat=fixed", "fixed"),
    ("vhd", "subformat=fixed,force_size=on", "fixed"),
    ("vhdx", "", "dynamic"),
    ("vhdx", "block_size=1M", "dynamic"),
    ("vhdx", "subformat=fixed", "fixed"),
    ("vdi", "", "dynamic"),
    ("vdi", "static=on", "static"),
]
SIZES = [64 * KiB + 1 * KiB, 10 * MiB, 10 * MiB + 512]


def run(*command) -> str:
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout


def qemu_size(path, format: str) -> int:
    info = json.loads(run("qemu-img", "info", "--output=json", "-f", DRIVERS.get(format, format), path))
    return info["virtual-size"]


def inspect(path, declared: str) -> formats.Inspection:
    with open(path, "rb") as file:
        return formats.inspect(RawDisk(file.fileno(), str(path)), declared, path.name, Limits())


def options(text: str) -> list[str]:
    return ["-o", text] if text else []


@pytest.fixture(scope="module")
def disks(tmp_path_factory):
    """A raw disk of each size: data at its start and its very end, and a hole."""
    folder = tmp_path_factory.mktemp("disks")
    result = {}
    for size in SIZES:
        result[size] = folder / f"{size}.raw"
        with result[size].open("wb") as file:
            file.write(os.urandom(40 * KiB))
            file.truncate(size)
            file.seek(size - 20 * KiB)
            file.write(os.urandom(20 * KiB))
    return result


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("format", "option", "subformat"), KINDS, ids=lambda value: str(value) or "default")
def test_what_qemu_img_writes_is_accepted_at_the_size_that_qemu_img_shows(
    disks, tmp_path, format, option, subformat, size
):
    driver, path = DRIVERS.get(format, format), tmp_path / "disk"
    run("qemu-img", "convert", "-O", driver, *options(option), disks[size], path)
    found = inspect(path, format)
    assert (found.format, found.subformat) == (format, subformat)
    assert found.virtual_size == qemu_size(path, format)
    # Empty, without a block of data.
    path.unlink()
    run("qemu-img", "create", "-q", "-f", driver, *options(option), path, size)
    assert inspect(path, "").virtual_size == qemu_size(path, format)
    assert inspect(path, "").format == format


@pytest.mark.parametrize(
    ("format", "option"),
    [
        ("qcow2", ""),
        ("qcow2", "compression_type=zstd"),
        ("qcow2", "extended_l2=on,compression_type=zstd"),
        ("qcow2", "cluster_size=512"),
        ("qcow2", "compat=0.10,cluster_size=2M"),
        ("vmdk", "subformat=streamOptimized"),
    ],
)
def test_compressed_images_are_accepted(disks, tmp_path, format, option):
    path = tmp_path / "disk"
    run("qemu-img", "convert", "-c", "-O", format, *options(option), disks[10 * MiB], path)
    assert inspect(path, format).virtual_size == 10 * MiB


@pytest.mark.parametrize(
    ("format", "size"),
    [
        ("raw", 3 * TiB),
        ("qcow2", 16 * TiB),
        ("qcow", 1 * TiB),
        ("qed", 16 * TiB),
        ("vmdk", 1 * TiB),
        ("vhd", 2000 * GiB),
        ("vhdx", 16 * TiB),
        ("vdi", 16 * TiB),
    ],
)
def test_large_sparse_disks_are_accepted(tmp_path, format, size):
    path = tmp_path / "disk"
    run("qemu-img", "create", "-q", "-f", DRIVERS.get(format, format), path, size)
    assert inspect(path, format).virtual_size == qemu_size(path, format) >= size


def test_a_qcow2_that_was_lived_in_is_accepted(tmp_path):
    path = tmp_path / "disk.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "1G")
    writes = [f"write -P {number + 1} {number * 37 * MiB} 300k" for number in range(20)]
    run("qemu-io", "-f", "qcow2", *(word for write in writes for word in ("-c", write)), path)
    run("qemu-img", "snapshot", "-c", "one", path)
    run("qemu-io", "-f", "qcow2", "-c", "write -P 9 0 5M", "-c", "discard 37M 128k", path)
    with pytest.raises(formats.SnapshotsError):
        inspect(path, "qcow2")
    run("qemu-img", "snapshot", "-d", "one", path)
    run("qemu-img", "bitmap", "--add", path, "changes")
    run("qemu-img", "resize", "-q", "-f", "qcow2", path, "3G")
    run("qemu-img", "resize", "-q", "-f", "qcow2", "--shrink", path, "2G")
    assert inspect(path, "qcow2").virtual_size == 2 * GiB


def test_a_dirty_qcow2_is_accepted_once_it_is_repaired(tmp_path):
    path = tmp_path / "disk.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", path, "64M")
    killed = ["qemu-io", "-f", "qcow2", "-c", "write 0 1M", "-c", "sigraise 9", str(path)]
    assert subprocess.run(killed, capture_output=True, check=False).returncode == -9
    with pytest.raises(formats.UncleanError) as caught:
        inspect(path, "qcow2")
    assert "qemu-img check -r all" in caught.value.remedy
    run("qemu-img", "check", "-q", "-r", "all", "-f", "qcow2", path)
    assert inspect(path, "qcow2").virtual_size == 64 * MiB


def test_the_details_say_what_the_header_shows(tmp_path):
    path = tmp_path / "disk.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "extended_l2=on,compression_type=zstd", path, "64M")
    assert inspect(path, "qcow2").details == {"cluster_size": 65536, "compression": "zstd", "extended_l2": True}
    json.dumps(inspect(path, "qcow2").details)


@pytest.mark.parametrize("size", [1, 511, 513, 1 * MiB + 1])
def test_a_raw_disk_is_exactly_as_long_as_its_file(tmp_path, size):
    path = tmp_path / "disk.img"
    path.write_bytes(b"\1" * size)
    assert inspect(path, "raw").virtual_size == size
    assert qemu_size(path, "raw") == -(-size // 512) * 512


def test_the_size_of_a_vhd_is_its_current_size_whatever_its_geometry_says(tmp_path):
    """As Virtual PC wrote them: 100 MiB and a sector, in a geometry that has no place for the sector."""
    path = tmp_path / "disk.vhd"
    size = 100 * MiB + 512
    run("qemu-img", "create", "-q", "-f", "vpc", "-o", "subformat=fixed,force_size=on", path, size)
    content = bytearray(path.read_bytes())
    footer = content[-512:]
    footer[28:32] = b"vpc "
    footer[56:60] = (1003).to_bytes(2, "big") + bytes([12, 17])
    footer[64:68] = bytes(4)
    footer[64:68] = (~sum(footer) & 0xFFFFFFFF).to_bytes(4, "big")
    content[-512:] = footer
    path.write_bytes(content)
    found = inspect(path, "vhd")
    assert found.virtual_size == size
    assert found.details == {"creator": "vpc", "geometry_size": 1003 * 12 * 17 * 512}
    assert qemu_size(path, "vhd") == found.details["geometry_size"]
    shown = run("qemu-img", "info", "--output=json", "--image-opts", opened_as(path))
    assert json.loads(shown)["virtual-size"] == size


def opened_as(path) -> str:
    """How darkroom.qemu opens a VHD."""
    return f"driver=vpc,force_size_calc=current_size,file.driver=file,file.filename={path}"


def test_a_fixed_vhd_whose_footer_lacks_its_last_byte_is_accepted(tmp_path):
    path = tmp_path / "disk.vhd"
    run("qemu-img", "create", "-q", "-f", "vpc", "-o", "subformat=fixed,force_size=on", path, "4M")
    path.write_bytes(path.read_bytes()[:-1])
    assert inspect(path, "vhd").virtual_size == qemu_size(path, "vhd") == 4 * MiB


def test_a_vdi_of_an_odd_size_is_shown_in_whole_sectors(tmp_path):
    path = tmp_path / "disk.vdi"
    run("qemu-img", "create", "-q", "-f", "vdi", path, "4M")
    content = bytearray(path.read_bytes())
    content[368:376] = (4 * MiB - 100).to_bytes(8, "little")
    path.write_bytes(content)
    assert inspect(path, "vdi").virtual_size == qemu_size(path, "vdi") == 4 * MiB


class Bytes:
    """A file in memory."""

    def __init__(self, data: bytes) -> None:
        self.data, self.size = data, len(data)

    def read(self, offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= self.size
        return self.data[offset : offset + length]


def test_a_file_is_read_within_its_budget():
    file = fields.File(Bytes(bytes(4096)), "x", Limits(header_size=1000))
    assert len(file.read(0, 600, "a header")) == 600
    with pytest.raises(formats.HeaderInvalidError):
        file.read(0, 401, "a header")
    assert len(file.peek(4000, 400)) == 96
    with pytest.raises(formats.HeaderInvalidError):
        file.read(4096, 1, "a header")


def test_a_sample_of_tables_stands_for_all_of_them():
    file = fields.File(Bytes(bytes(4096) * 64), "x", Limits(header_size=4096 * 16))
    starts = np.arange(64, dtype=np.uint64) * np.uint64(4096)
    parts = list(tables.sample(file, starts, 4096, ">u8", "a table"))
    assert sum(len(entries) for _, entries in parts) == 16 * 512
    assert sum(weight * len(entries) for weight, entries in parts) == 64 * 512


@pytest.mark.parametrize(
    ("data", "checksum"),
    [
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_crc32c_is_that_of_rfc_3720(data, checksum):
    assert crc32c.crc32c(data) == checksum
