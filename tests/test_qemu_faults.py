"""QEMU's tools when something goes wrong: the right error, no wrong bytes, no process and no file left."""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from darkroom import formats, qemu, rawdisk, sandbox
from darkroom.errors import DamagedError
from darkroom.model import MiB
from darkroom.nbd import client
from tests.operations import quiet
from tests.strategies import BytesReader


@dataclass
class Source:
    """What of a source qemu looks at."""

    reader: rawdisk.RawDisk
    fd: int | None = None
    fd_range: tuple[int, int] | None = None
    name: str = "disk.qcow2"
    is_disk: bool = field(default=False)


@pytest.fixture
def raw(tmp_path):
    path = tmp_path / "disk.raw"
    path.write_bytes(BytesReader([("data", 3 * MiB), ("zero", 4 * MiB), ("data", MiB)]).data)
    return path


@pytest.fixture
def qcow2(raw, qemu_img):
    path = raw.with_name("disk.qcow2")
    qemu_img("convert", "-f", "raw", "-O", "qcow2", raw, path)
    return path


@contextlib.contextmanager
def opened(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def inspected(size=8 * MiB):
    return formats.Inspection("qcow2", size)


@pytest.mark.parametrize("before", [512, 1000, 5 * MiB])
def test_an_image_inside_another_file_is_read_in_place(raw, qcow2, tmp_path, home, before):
    image = qcow2.read_bytes()
    (tmp_path / "archive").write_bytes(b"\xee" * before + image + b"\xee" * 777)
    with opened(tmp_path / "archive") as fd:
        disk = rawdisk.RawDisk(fd, "disk.qcow2", before, len(image))
        with qemu.serve(Source(disk, fd, (before, len(image))), inspected(), home / "s") as reader:
            assert reader.read(0, reader.size) == raw.read_bytes()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root opens files of others")
def test_root_reads_a_file_that_only_its_owner_may_read(raw, qcow2, home):
    os.chown(qcow2, 65534, 65534)
    qcow2.chmod(0o600)
    with opened(qcow2) as fd:
        with qemu.serve(Source(rawdisk.RawDisk(fd, "x"), fd), inspected(), home / "s") as reader:
            assert reader.read(0, reader.size) == raw.read_bytes()


def test_why_a_source_failed_is_told_and_not_that_qemu_failed(qcow2, home):
    class Changing(rawdisk.RawDisk):
        changed = False

        def read(self, offset, length):
            if self.changed:
                raise rawdisk.SourceChangedError("s3://bucket/disk", "etag 1", "etag 2")
            return super().read(offset, length)

    with opened(qcow2) as fd:
        disk = Changing(fd, "x")
        with pytest.raises(rawdisk.SourceChangedError, match="etag 2"):  # noqa: PT012
            with qemu.serve(Source(disk), inspected(), home / "s") as reader:
                assert reader.read(0, 512)
                disk.changed = True
                reader.read(MiB, MiB)
        with pytest.raises(rawdisk.SourceChangedError, match="etag 2"):
            with qemu.serve(Source(disk), inspected(), home / "s"):
                pass
    assert list((home / "s").iterdir()) == []


def test_a_qemu_that_dies_under_a_reader_is_unavailable(qcow2, home, monkeypatch):
    started = []
    real = sandbox.Running.__init__

    def noted(self, process, words):
        started.append(process)
        real(self, process, words)

    monkeypatch.setattr(sandbox.Running, "__init__", noted)
    with opened(qcow2) as fd, pytest.raises(client.NbdUnavailableError) as caught:  # noqa: PT012
        with qemu.serve(Source(rawdisk.RawDisk(fd, "x"), fd), inspected(), home / "s") as reader:
            started[0].stdin.close()
            started[0].wait(20)
            reader.read(0, 512)
    assert caught.value.retryable


def test_a_system_that_cannot_confine_is_not_blamed_on_the_image(qcow2, tmp_path, home, monkeypatch):
    (tmp_path / "bwrap").write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with opened(qcow2) as fd, pytest.raises(sandbox.SandboxRefusedError, match="user namespaces"):
        with qemu.serve(Source(rawdisk.RawDisk(fd, "x"), fd), inspected(), home / "s"):
            pass


@pytest.mark.parametrize("format", ["raw", "qcow2", "vmdk", "vhd", "vhdx", "vdi"])
@pytest.mark.parametrize("size", [512, 8 * MiB, 40 * MiB + 512])
def test_every_format_is_written_as_the_disk_is(tmp_path, qemu_img, format, size):
    disk = BytesReader([("data", 512), ("hole", (size - 512) // 2), ("same", size - 512 - (size - 512) // 2)])
    (tmp_path / "judge").write_bytes(disk.data)
    qemu.convert(disk, tmp_path / "out", format, progress=quiet)

    driver = qemu.DRIVERS[format]
    assert "identical" in qemu_img("compare", "-f", "raw", "-F", driver, tmp_path / "judge", tmp_path / "out")
    shown = json.loads(qemu_img("info", "-f", driver, "--output=json", tmp_path / "out"))
    assert shown["virtual-size"] == size
    assert sorted(path.name for path in tmp_path.iterdir()) == ["judge", "out"]


def test_the_same_disk_is_the_same_qcow2_file_each_time(tmp_path):
    disk = BytesReader([("data", 300_000), ("hole", 5 * MiB), ("data", 9 * MiB), ("same", 70_512)] * 3)
    digests = set()
    for number in range(6):
        qemu.convert(disk, tmp_path / f"{number}", "qcow2", progress=quiet)
        digests.add(hashlib.sha256((tmp_path / f"{number}").read_bytes()).hexdigest())

    assert len(digests) == 1


@pytest.mark.parametrize("format", ["raw", "qcow2", "vhdx"])
def test_damage_in_the_middle_is_raised_as_it_is_and_no_file_is_left(tmp_path, format):
    class Damaged(BytesReader):
        def read(self, offset, length):
            if offset >= 20 * MiB:
                raise DamagedError("chunk 40", "a digest", "another")
            return super().read(offset, length)

    with pytest.raises(DamagedError, match="chunk 40"):
        qemu.convert(Damaged([("same", 32 * MiB)]), tmp_path / "out", format, progress=quiet)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rawdisk.os, "pwritev", full)
    with pytest.raises(qemu.ConvertError, match="No space left on device"):
        qemu.convert(BytesReader([("data", MiB)]), tmp_path / "out", "raw", progress=quiet)
    assert list(tmp_path.iterdir()) == []


def test_a_converter_that_fails_is_named_with_its_words(tmp_path, monkeypatch):
    monkeypatch.setitem(qemu._OUTPUT_OPTIONS, "qcow2", "cluster_size=3")
    with pytest.raises(qemu.ConvertError, match=r"[Cc]luster size"):
        qemu.convert(BytesReader([("data", MiB)]), tmp_path / "out", "qcow2", progress=quiet)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_a_folder_that_is_not_there_is_named(tmp_path, format):
    with pytest.raises(qemu.ConvertError, match="No such file or directory"):
        qemu.convert(BytesReader([("data", MiB)]), tmp_path / "no" / "out", format, progress=quiet)


def test_a_raw_file_that_exists_is_not_touched(tmp_path):
    (tmp_path / "out").write_text("precious")
    with pytest.raises(qemu.ConvertError, match="File exists"):
        qemu.convert(BytesReader([("data", MiB)]), tmp_path / "out", "raw", progress=quiet)
    assert (tmp_path / "out").read_text() == "precious"


ROOT = str(Path(__file__).parent.parent)
PARENT = """
import sys, types
from pathlib import Path
from darkroom import formats, qemu, rawdisk
from tests.strategies import BytesReader
folder = Path(sys.argv[2])
def said(*_):
    print("on", flush=True)
    sys.stdin.read()
if sys.argv[1] == "serve":
    file = open(folder / "disk.qcow2", "rb")
    disk = rawdisk.RawDisk(file.fileno(), "x")
    source = types.SimpleNamespace(reader=disk, fd=file.fileno(), fd_range=None, name="x", is_disk=False)
    with qemu.serve(source, formats.Inspection("qcow2", 8 << 20), folder / "s"):
        said()
else:
    qemu.convert(BytesReader([("data", 64 << 20)]), folder / "out", "qcow2", progress=said)
"""


def below(folder):
    """The confined programs that have a folder bound."""
    done = subprocess.run(["pgrep", "-f", "--", f"bwrap .*{folder}"], capture_output=True, text=True, check=False)
    return done.stdout.split()


@pytest.mark.parametrize("work", ["serve", "convert"])
def test_a_killed_parent_leaves_no_process(qcow2, home, work):
    home.mkdir()
    (home / "disk.qcow2").write_bytes(qcow2.read_bytes())
    environment = {**os.environ, "TMPDIR": str(home), "PYTHONPATH": os.pathsep.join([ROOT, *sys.path])}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, work, home], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    assert parent.stdout.readline() == b"on\n"
    assert below(home)
    parent.kill()
    parent.wait()
    parent.stdin.close()
    parent.stdout.close()

    deadline = time.monotonic() + 10
    while below(home):
        assert time.monotonic() < deadline
        time.sleep(0.01)
