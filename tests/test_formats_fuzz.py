"""Whatever the bytes are, a file is inspected or refused, within bounds; QEMU sees no more than was inspected."""

import json
import struct
import subprocess

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from darkroom import formats
from darkroom.errors import RefusedError
from darkroom.formats import partitions
from darkroom.model import GiB, MiB
from darkroom.settings import Limits
from tests.hostile import base, patched, write_sparse
from tests.hostile_others import vhd_sealed, vhdx_sealed
from tests.hostile_vmdk import good_stream

LIMITS = Limits(header_size=8 * MiB, virtual_size=64 * GiB)
DRIVERS = {"vhd": "vpc"}
KINDS = {
    "qcow2": lambda: base("qcow2", "64M", write="0 64k"),
    "qcow2-v2": lambda: base("qcow2", "64M", "compat=0.10", write="0 64k"),
    "qcow2-extended": lambda: base("qcow2", "64M", "extended_l2=on", write="0 64k"),
    "qcow": lambda: base("qcow", "64M", write="0 64k"),
    "qed": lambda: base("qed", "64M", write="0 64k"),
    "vmdk": lambda: base("vmdk", "64M", write="0 64k"),
    "vmdk-stream": good_stream,
    "vhd": lambda: base("vpc", "64M", "force_size=on", write="0 64k"),
    "vhd-fixed": lambda: base("vpc", "1M", "force_size=on", "subformat=fixed"),
    "vhdx": lambda: base("vhdx", "4M", "block_size=1M", write="0 64k"),
    "vdi": lambda: base("vdi", "64M", write="0 64k"),
    "raw": lambda: bytes(1 * MiB),
}
NUMBERS = st.one_of(
    st.sampled_from([0, 1, 2, 255, 511, 512, 513, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, (1 << 63) - 1, (1 << 64) - 1]),
    st.integers(0, 63).map(lambda bit: 1 << bit),
    st.integers(0, (1 << 64) - 1),
)


class Bytes:
    """A file in memory that counts what is read of it."""

    def __init__(self, data: bytes) -> None:
        self.data, self.size, self.bytes = data, len(data), 0

    def read(self, offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= self.size
        self.bytes += length
        return self.data[offset : offset + length]


def places(content: bytes) -> list[int]:
    """Where metadata lie: all that is not zero, eight bytes each, but for the blocks of data."""
    words = range(0, len(content) - 8, 8)
    return [at for at in words if content[at : at + 8].strip(b"\0") and content[at : at + 8] != b"\xcd" * 8]


def damages(content: bytes, where: list[int]) -> st.SearchStrategy:
    """Up to four changes, as (offset, layout, number), and where the file ends."""
    offsets = st.one_of(st.integers(0, 600), st.sampled_from(where or [0]))
    changes = st.lists(st.tuples(offsets, st.sampled_from([">Q", "<Q", ">I", "<I", "B"]), NUMBERS), max_size=4)
    whole = st.just(len(content))
    return st.tuples(changes, st.one_of(whole, whole, whole, st.integers(0, len(content))))


def damaged(content: bytes, damage: tuple) -> bytes:
    changes, end = damage
    for at, layout, number in changes:
        if at + 8 <= len(content):
            content = patched(content, (at, layout, number & ((1 << 8 * struct.calcsize(layout)) - 1)))
    return content[:end]


def examine(content: bytes, declared: str) -> formats.Inspection | None:
    reader = Bytes(content)
    try:
        found = formats.inspect(reader, declared, "fuzz", LIMITS)
    except RefusedError:
        return None
    finally:
        assert reader.bytes <= LIMITS.header_size + 1 * MiB + 2048
    assert 0 < found.virtual_size <= LIMITS.virtual_size
    json.dumps(found.details)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_inspected_or_refused_within_bounds(kind):
    content, declared = KINDS[kind](), kind.partition("-")[0]
    where = places(content)
    assert examine(content, declared)

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(damages(content, where))
    @example(([], len(content)))
    def check(damage) -> None:
        changed = damaged(content, damage)
        examine(changed, declared)
        if kind in ("vhd", "vhd-fixed") and len(changed) >= 2048:
            examine(vhd_sealed(changed, dynamic=kind == "vhd"), declared)
        if kind == "vhdx" and len(changed) > MiB:
            examine(vhdx_sealed(changed), declared)

    check()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("raw", "vhdx")])
def test_qemu_sees_what_was_inspected(tmp_path, kind):
    """Of each damaged file that is accepted: the same size, no other file."""
    content, declared = KINDS[kind](), kind.partition("-")[0]
    where = [at for at in places(content) if at < 4096]
    path = tmp_path / "disk"
    opened = []

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(damages(content, where))
    @example(([], len(content)))
    def check(damage) -> None:
        changed = damaged(content, damage)
        if kind in ("vhd", "vhd-fixed") and len(changed) >= 2048:
            changed = vhd_sealed(changed, dynamic=kind == "vhd")
        found = examine(changed, declared)
        if not found:
            return
        path.unlink(missing_ok=True)
        write_sparse(path, changed)
        options = f"driver={DRIVERS.get(declared, declared)},file.driver=file,file.filename={path}"
        options += ",force_size_calc=current_size" if declared == "vhd" else ""
        command = ["qemu-img", "info", "--output=json", "--image-opts", options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            opened.append(damage)
            info = json.loads(done.stdout)
            assert info["virtual-size"] == found.virtual_size
            assert not {"backing-filename", "full-backing-filename", "snapshots", "encrypted"} & info.keys()
            assert "data-file" not in info.get("format-specific", {}).get("data", {})

    check()
    assert ([], len(content)) in opened


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=2048), st.sampled_from(["", "raw", "qcow2", "vmdk", "vhd", "vhdx", "vdi", "qed", "qcow", "iso"])
)
def test_junk_is_inspected_or_refused(data, declared):
    examine(data, declared)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=1024), st.booleans())
def test_junk_is_no_partition_table(data, protective):
    sector = bytearray(data[:446].ljust(446, b"\0") + data[446:510].ljust(64, b"\0") + b"\x55\xaa")
    if protective:
        sector[446:462] = b"\0" * 4 + b"\xee" + b"\0" * 3 + b"\1\0\0\0\xff\xff\xff\xff"
        sector += b"EFI PART" + data.ljust(504, b"\xff")
    reader = Bytes(bytes(sector).ljust(64 * 1024, data[:1] or b"\0"))
    table = partitions.partitions(reader)
    assert table.scheme in ("none", "mbr", "gpt")
    assert reader.bytes <= 34 * 1024
