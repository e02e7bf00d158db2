import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from darkroom import formats
from darkroom.errors import RefusedError
from darkroom.model import GiB, KiB, MiB, TiB
from darkroom.rawdisk import RawDisk
from darkroom.settings import Limits
from tests import hostile, hostile_qcow, hostile_vmdk

OPINION = 1 * MiB + 2 * KiB
"""What the second inspector is shown."""

# Inspects files in a process that may not use much memory or time, and notes what else it does.
CHILD = """
import json, os, resource, sys
import numpy
from oslo_utils.imageutils import format_inspector
from darkroom import formats
from darkroom.errors import RefusedError
from darkroom.formats import crc32c, detect, fields, opinion, tables
from darkroom.rawdisk import RawDisk
from darkroom.settings import Limits

cases = json.load(sys.stdin)
for kind in ("raw", "qcow2", "qcow", "qed", "vmdk", "vhd", "vhdx", "vdi", "iso"):
    detect.inspector(kind)
files = [os.open(path, os.O_RDONLY) for _, path, _ in cases]
events = []
watched = ("open", "os.open", "os.exec", "os.posix_spawn", "os.system", "subprocess.Popen", "socket.connect")
resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
status = os.open("/proc/self/status", os.O_RDONLY)

def peak():
    return int(os.pread(status, 1 << 16, 0).partition(b"VmHWM:")[2].split()[0]) * 1024

before = peak()
sys.addaudithook(lambda event, args: events.append([event, str(args)]) if event in watched else None)
found = {}
for (name, path, declared), fd in zip(cases, files):
    try:
        found[name] = str(formats.inspect(RawDisk(fd, name), declared, name, Limits()))
    except RefusedError as error:
        found[name] = error.code
grown = peak() - before
open(os.devnull).close()
print(json.dumps({"found": found, "events": events, "grown": grown}))
"""


class CountingReader(RawDisk):
    """Counts the bytes that are read."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("rb")
        self.bytes = 0
        super().__init__(self.file.fileno(), str(path))

    def read(self, offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= self.size
        self.bytes += length
        return super().read(offset, length)

    def close(self) -> None:
        self.file.close()


@pytest.fixture(scope="module")
def canary(tmp_path_factory):
    return hostile.write_canary(tmp_path_factory.mktemp("host") / "canary.raw")


@pytest.fixture(scope="module")
def cases(tmp_path_factory, canary):
    return hostile.catalogue(tmp_path_factory.mktemp("hostile"), canary)


def inspect(path: Path, declared: str, limits: Limits | None = None) -> formats.Inspection:
    reader = CountingReader(path)
    try:
        return formats.inspect(reader, declared, path.name, limits or Limits())
    finally:
        reader.close()


def inspect_elsewhere(cases: list[tuple[str, Path, str]]) -> dict:
    """Inspect files in another process, under limits of the system."""
    given = json.dumps([(name, str(path), declared) for name, path, declared in cases])
    command = [sys.executable, "-c", CHILD]
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_each_hostile_file_is_refused_by_its_own_code(cases):
    errors = {}
    for case in cases:
        reader = CountingReader(case.path)
        try:
            formats.inspect(reader, case.declared, case.name, Limits())
        except RefusedError as error:
            errors[case.name] = error
        assert reader.bytes <= Limits().header_size + OPINION, case.name
        reader.close()
    found = {case.name: errors[case.name].code if case.name in errors else "accepted" for case in cases}
    assert found == {case.name: case.code for case in cases}
    assert len(found) > 300
    lines = [str(error) for error in errors.values()]
    assert not [line for line in lines if hostile.SECRET.decode() in line or "\n" in line]
    assert not [name for name, error in errors.items() if not error.remedy]


def test_inspecting_opens_no_file_and_starts_no_process(cases):
    result = inspect_elsewhere([(case.name, case.path, case.declared) for case in cases])
    assert result["found"] == {case.name: case.code for case in cases}
    # The one that the process opens on purpose, at the end, shows that it would tell.
    assert [event for event, _ in result["events"]] == ["open"]
    assert os.devnull in result["events"][0][1]


def unguarded(driver: str, path: Path, folder: Path) -> bytes:
    """What a service without inspection would hand out."""
    output = folder / "leaked.raw"
    command = ["qemu-img", "convert", "-f", driver, "-O", "raw", str(path), str(output)]
    subprocess.run(command, check=True, capture_output=True)
    return output.read_bytes()


@pytest.mark.parametrize(
    "name",
    [
        "qcow2-0.10-backing-absolute",
        "qcow2-1.1-backing-absolute",
        "qcow2-1.1-backing-relative",
        "qcow2-1.1-backing-json",
        "qcow2-1.1-backing-file-url",
        "qcow2-1.1-data-file-absolute",
        "vmdk-descriptor-vmfs",
        "vmdk-descriptor-monolithicFlat",
        "qcow-backing",
        "qed-backing",
    ],
)
def test_the_files_are_dangerous_unless_they_are_refused(cases, tmp_path, name):
    (case,) = [case for case in cases if case.name == name]
    assert hostile.SECRET in unguarded(case.declared, case.path, tmp_path)


def test_qemu_takes_a_parent_from_a_comment_of_a_vmdk(canary, tmp_path):
    parent = tmp_path / "canary.vmdk"
    subprocess.run(["qemu-img", "convert", "-O", "vmdk", str(canary), str(parent)], check=True)
    text = hostile_vmdk.text_of(parent.read_bytes())
    cid = next(line for line in text.splitlines() if line.startswith("CID="))
    parent.write_bytes(hostile_vmdk.with_text(parent.read_bytes(), text.replace(cid, "CID=ffffffff")))
    content = hostile.base("vmdk", "1M")
    text = hostile_vmdk.text_of(content).replace("parentCID", f'# parentFileNameHint="{parent}"\nparentCID')
    path = tmp_path / "comment.vmdk"
    path.write_bytes(hostile_vmdk.with_text(content, text))
    assert hostile.SECRET in unguarded("vmdk", path, tmp_path)
    with pytest.raises(formats.ExternalReferenceError):
        inspect(path, "vmdk")


def sparse(path: Path, size: int, *parts: tuple[int, bytes]) -> Path:
    with path.open("xb") as file:
        for offset, data in parts:
            file.seek(offset)
            file.write(data)
        file.truncate(size)
    return path


def big_tables(folder: Path) -> list[tuple[str, Path, str]]:
    """Valid headers in front of as many table entries as there can be."""
    qcow2 = hostile.base("qcow2", "1G", "cluster_size=512")
    l1 = 1 << 30
    tables = b"".join((1 << 63 | 2 << 30 | number * 512).to_bytes(8, "big") for number in range(1 << 22))
    header = hostile.patched(qcow2, (24, ">Q", 128 * GiB), (36, ">IQ", (1 << 22, l1)))
    vdi = hostile.patched(
        hostile.base("vdi", "64M"),
        (340, "<II", (512, 64 * MiB + 1 * KiB)),
        (368, "<Q", 16 * TiB - 1 * MiB),
        (384, "<II", (16 * 1024**2 - 1, 16 * 1024**2 - 1)),
    )
    numbers = b"".join(number.to_bytes(4, "little") for number in reversed(range(16 * 1024**2 - 1)))
    return [
        ("qcow2", sparse(folder / "l1.qcow2", 8 * GiB, (0, header), (l1, tables)), "qcow2"),
        ("vdi", sparse(folder / "map.vdi", 100 * GiB, (0, vdi[:512]), (512, numbers)), "vdi"),
    ]


def test_the_largest_tables_cost_bounded_memory_and_time(tmp_path):
    result = inspect_elsewhere(big_tables(tmp_path))
    # The tables of qcow2 lie in a hole, which claims nothing; those of VDI name 16 TiB of a file that has 100 GiB.
    assert result["found"]["vdi"] == "header-invalid"
    assert "virtual_size=137438953472" in result["found"]["qcow2"]
    assert 64 * MiB < result["grown"] < 1 * GiB


def test_a_bomb_of_more_tables_than_are_read_is_found(tmp_path):
    """Of its 64 MiB of L2 tables 2 MiB are looked at."""
    content = hostile.base("qcow2", "64M", write="0 64k")
    l1, l2, data = 1 * MiB, 2 * MiB, 1 * MiB + 512 * KiB
    tables = b"".join((1 << 63 | l2 + number * 64 * KiB).to_bytes(8, "big") for number in range(1024))
    entries = (1 << 63 | data).to_bytes(8, "big") * (64 * MiB // 8)
    header = hostile.patched(content, (24, ">Q", 512 * GiB), (36, ">IQ", (1024, l1)))
    path = sparse(tmp_path / "bomb.qcow2", 70 * MiB, (0, header), (l1, tables), (l2, entries))
    limits = Limits(header_size=3 * MiB, expansion=100)
    with pytest.raises(formats.ExpansionBombError):
        inspect(path, "qcow2", limits)
    assert inspect(path, "qcow2", replace(limits, expansion=10000)).virtual_size == 512 * GiB


def test_a_large_disk_of_empty_tables_is_no_bomb(tmp_path):
    """Fresh, a VMDK has all its tables: 128 MiB of them, twice."""
    path = tmp_path / "fresh.vmdk"
    subprocess.run(["qemu-img", "create", "-q", "-f", "vmdk", str(path), "2T"], check=True)
    assert inspect(path, "vmdk").virtual_size == 2 * TiB


def test_the_limit_of_the_disk_is_the_users(tmp_path):
    path = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "2G"], check=True)
    assert inspect(path, "qcow2", Limits(virtual_size=2 * GiB)).virtual_size == 2 * GiB
    with pytest.raises(formats.VirtualSizeError):
        inspect(path, "qcow2", Limits(virtual_size=2 * GiB - 1))
    raw = sparse(tmp_path / "disk.img", 2 * GiB + 1)
    with pytest.raises(formats.VirtualSizeError):
        inspect(raw, "raw", Limits(virtual_size=2 * GiB))


def test_a_vmdk_with_its_header_in_a_footer_is_accepted(tmp_path):
    path = tmp_path / "stream.vmdk"
    path.write_bytes(hostile_vmdk.good_stream())
    assert inspect(path, "vmdk").subformat == "streamOptimized"
    subprocess.run(["qemu-img", "info", "-f", "vmdk", str(path)], check=True, stdout=subprocess.DEVNULL)


def test_a_name_in_the_feature_table_is_no_reference(canary, tmp_path):
    content = hostile.base("qcow2", "64M")
    junk = os.urandom(40) + str(canary).encode()
    table = (0x6803F857).to_bytes(4, "big") + (4096).to_bytes(4, "big") + junk
    path = tmp_path / "junk.qcow2"
    path.write_bytes(hostile.replaced(content, 112, table))
    assert inspect(path, "qcow2").virtual_size == 64 * MiB


def test_what_is_declared_by_nobody_is_detected(tmp_path):
    found = Counter()
    for driver in ("raw", "qcow2", "qcow", "qed", "vmdk", "vpc", "vhdx", "vdi"):
        path = tmp_path / driver
        path.write_bytes(hostile.base(driver, "4M"))
        found[inspect(path, "").format] += 1
    assert found == Counter(["raw", "qcow2", "qcow", "qed", "vmdk", "vhd", "vhdx", "vdi"])


def test_a_qcow2_whose_data_file_is_named_is_refused_whatever_its_bits(canary, tmp_path):
    content = hostile_qcow.with_data_file(hostile.base("qcow2", "64M", write="0 64k"), str(canary))
    path = tmp_path / "data.qcow2"
    path.write_bytes(hostile.patched(content, (72, ">Q", 4 | 1 | 2)))
    with pytest.raises(formats.ExternalReferenceError):
        inspect(path, "qcow2")
