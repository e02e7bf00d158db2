import json
import shutil
import struct
import subprocess

import pytest

from darkroom.formats import partitions
from darkroom.model import KiB, MiB
from darkroom.rawdisk import RawDisk

LINUX, ESP = "0fc63daf-8483-4772-8e79-3d69d8477de4", "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
SFDISK = shutil.which("sfdisk") or "/usr/sbin/sfdisk"
FDISK = shutil.which("fdisk") or "/usr/sbin/fdisk"


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(64 * MiB)
    return path


def partition(path, script: str) -> list[dict]:
    """Make a table by sfdisk; what sfdisk shows then, in bytes."""
    subprocess.run([SFDISK, "--quiet", str(path)], input=script, text=True, check=True, capture_output=True)
    shown = subprocess.run([SFDISK, "--json", str(path)], check=True, capture_output=True, text=True)
    entries = json.loads(shown.stdout)["partitiontable"]["partitions"]
    return [{"start": entry["start"] * 512, "size": entry["size"] * 512} for entry in entries]


def table(path) -> partitions.PartitionTable:
    with path.open("rb") as file:
        return partitions.partitions(RawDisk(file.fileno(), str(path)))


def sizes(found: partitions.PartitionTable) -> list[dict]:
    return [{"start": entry.start, "size": entry.size} for entry in found.entries]


def test_a_gpt_shows_its_partitions_and_the_esp(disk):
    shown = partition(disk, f"label: gpt\nsize=8M, type={ESP}\nsize=16M, type={LINUX}\n")
    found = table(disk)
    assert (found.scheme, found.esp) == ("gpt", True)
    assert sizes(found) == shown
    assert [(entry.number, entry.type) for entry in found.entries] == [(1, ESP), (2, LINUX)]


def test_a_gpt_in_sectors_of_4096_bytes_is_read(disk):
    """As disks with such sectors have it: made by fdisk, which is told the size of a sector."""
    command = [FDISK, "-b", "4096", "-w", "never", str(disk)]
    script = "g\nn\n1\n256\n+8M\nt\n1\nn\n2\n\n+16M\nw\n"
    subprocess.run(command, input=script, text=True, check=True, capture_output=True)
    found = table(disk)
    assert (found.scheme, found.esp) == ("gpt", True)
    assert sizes(found) == [{"start": 1 * MiB, "size": 8 * MiB}, {"start": 9 * MiB, "size": 16 * MiB}]
    assert [entry.type for entry in found.entries] == [ESP, LINUX]


def test_a_gpt_without_an_esp_shows_none(disk):
    partition(disk, f"label: gpt\nsize=16M, type={LINUX}\n")
    assert (table(disk).scheme, table(disk).esp) == ("gpt", False)


def test_an_mbr_shows_its_primary_partitions(disk):
    shown = partition(disk, "label: dos\nsize=8M, type=c, bootable\nsize=16M, type=83\n")
    found = table(disk)
    assert (found.scheme, found.esp) == ("mbr", False)
    assert sizes(found) == shown
    assert [entry.type for entry in found.entries] == ["0x0c", "0x83"]


def test_an_esp_may_lie_in_an_mbr(disk):
    partition(disk, "label: dos\nsize=8M, type=ef\n")
    assert (table(disk).scheme, table(disk).esp) == ("mbr", True)


@pytest.mark.parametrize("size", [0, 1, 511, 512, 1023, 64 * KiB])
def test_a_disk_of_zeros_has_no_table(tmp_path, size):
    path = tmp_path / "zeros"
    path.write_bytes(bytes(size))
    assert table(path) == partitions.PartitionTable("none")


@pytest.mark.parametrize("options", [["-F", "16"], ["-F", "32", "-s", "1"]])
def test_a_file_system_without_a_table_has_none(disk, options):
    """Its boot sector ends as an MBR does, and has code where an MBR has its entries."""
    mkfs = shutil.which("mkfs.vfat") or "/usr/sbin/mkfs.vfat"
    subprocess.run([mkfs, *options, str(disk)], check=True, capture_output=True)
    assert table(disk).scheme == "none"


def damage(path, *changes: tuple[int, bytes]) -> None:
    with path.open("r+b") as file:
        for offset, data in changes:
            file.seek(offset)
            file.write(data)


@pytest.mark.parametrize(
    ("offset", "layout", "value"),
    [
        (512, "<Q", 0),
        (512 + 72, "<Q", (1 << 64) - 1),
        (512 + 72, "<Q", 64 * MiB // 512 - 1),
        (512 + 80, "<I", 0xFFFFFFFF),
        (512 + 84, "<I", 0),
        (512 + 84, "<I", 127),
    ],
    ids=["no-magic", "table-far", "table-over-the-end", "entries-many", "entry-size-0", "entry-size-odd"],
)
def test_a_gpt_that_makes_no_sense_leaves_the_protective_mbr(disk, offset, layout, value):
    partition(disk, f"label: gpt\nsize=16M, type={LINUX}\n")
    damage(disk, (offset, struct.pack(layout, value)))
    found = table(disk)
    assert found.scheme == "mbr"
    assert [entry.type for entry in found.entries] == ["0xee"]


def test_overlapping_entries_and_another_backup_are_shown_as_the_first_table_has_them(disk):
    partition(disk, f"label: gpt\nsize=8M, type={LINUX}\nsize=8M, type={LINUX}\n")
    before = table(disk)
    first, second = before.entries
    damage(disk, (1024 + 128 + 32, struct.pack("<Q", first.start // 512)), (64 * MiB - 512, bytes(512)))
    found = table(disk)
    assert found.scheme == "gpt"
    assert [entry.start for entry in found.entries] == [first.start, first.start]
    assert found.entries[1].size == second.start + second.size - first.start


def test_a_protective_mbr_with_more_partitions_is_a_gpt(disk):
    partition(disk, f"label: gpt\nsize=16M, type={LINUX}\n")
    damage(disk, (446 + 16, struct.pack("<B3sB3sII", 0x80, b"", 0x83, b"", 2048, 2048)))
    assert table(disk).scheme == "gpt"


def test_a_disk_that_ends_within_its_gpt_has_its_mbr(disk):
    partition(disk, f"label: gpt\nsize=16M, type={LINUX}\n")
    with disk.open("r+b") as file:
        file.truncate(1024)
    assert table(disk).scheme == "mbr"
