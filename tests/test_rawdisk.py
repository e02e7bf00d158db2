"""Raw bytes in local files: exact ranges, exact holes, files that shrink; and sparse files written."""

import contextlib
import os
import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings

from darkroom import rawdisk
from darkroom.errors import RefusedError
from darkroom.model import KiB, MiB
from tests.operations import quiet
from tests.strategies import BytesReader, parts


@contextlib.contextmanager
def opened(path, *part):
    fd = os.open(path, os.O_RDONLY)
    try:
        yield rawdisk.RawDisk(fd, str(path), *part)
    finally:
        os.close(fd)


@pytest.fixture
def sparse(tmp_path):
    """64 KiB of data at 1 MiB of 4 MiB."""
    path = tmp_path / "sparse"
    with open(path, "wb") as file:
        file.truncate(4 * MiB)
        file.seek(MiB)
        file.write(bytes(range(256)) * 256)
    return path


def spans(extents):
    return [(extent.start, extent.end, extent.zero) for extent in extents]


def test_holes_of_the_file_are_zero_extents(sparse):
    with opened(sparse) as disk:
        data = (MiB, MiB + 64 * KiB, False)
        assert spans(disk.extents(0, 4 * MiB)) == [(0, MiB, True), data, (MiB + 64 * KiB, 4 * MiB, True)]
        assert spans(disk.extents(MiB + 1, 2)) == [(MiB + 1, MiB + 3, False)]
        assert spans(disk.extents(3 * MiB, 5)) == [(3 * MiB, 3 * MiB + 5, True)]
        assert disk.extents(MiB, 0) == []


def test_a_part_of_a_file_is_a_disk_of_its_own(sparse):
    start = MiB - 4096
    with opened(sparse, start, 8192 + 3) as disk:
        assert disk.size == 8195
        assert disk.read(0, 8195) == sparse.read_bytes()[start : start + 8195]
        assert spans(disk.extents(0, 8195)) == [(0, 4096, True), (4096, 8195, False)]


@pytest.mark.parametrize("length", [0, 1, 511, 512, 513, 4095, 4096, 4097])
def test_reads_of_any_length_are_exact(sparse, length):
    data = sparse.read_bytes()
    with opened(sparse) as disk:
        for offset in (0, MiB - 1, MiB, MiB + 64 * KiB - 1, 4 * MiB - length):
            assert disk.read(offset, length) == data[offset : offset + length]


@pytest.mark.parametrize("size", [0, 4096, MiB + 4096])
def test_a_file_that_has_become_shorter_reads_as_an_error_and_never_as_zeros(sparse, size):
    with opened(sparse) as disk:
        os.truncate(sparse, size)
        with pytest.raises(rawdisk.SourceChangedError):
            disk.read(0, 4 * MiB)
        with pytest.raises(rawdisk.SourceChangedError):
            disk.read(4 * MiB - 1, 1)
        with pytest.raises(rawdisk.SourceChangedError):
            disk.extents(0, 4 * MiB)


@settings(max_examples=30, deadline=None)
@given(described=parts)
def test_any_disk_is_written_as_it_is_with_its_holes(short_folder, described):
    path, disk, seen = short_folder / "written", BytesReader(described), []
    try:
        rawdisk.write_raw(disk, path, lambda *at: seen.append(at))

        assert path.read_bytes() == disk.data
        with opened(path) as written:
            data = sum(extent.length for extent in written.extents(0, written.size) if not extent.zero)
        assert data <= sum(e.length + 8192 for e in disk.extents(0, disk.size) if not e.zero)
        assert seen[-1] == (disk.size, disk.size)
        assert seen == sorted(seen)
    finally:
        path.unlink()


def test_an_empty_disk_is_an_empty_file(tmp_path):
    rawdisk.write_raw(BytesReader([]), tmp_path / "empty", quiet)

    assert (tmp_path / "empty").stat().st_size == 0


def test_a_file_that_exists_is_not_touched(tmp_path):
    (tmp_path / "there").write_text("precious")
    with pytest.raises(FileExistsError):
        rawdisk.write_raw(BytesReader([("data", 5)]), tmp_path / "there", quiet)

    assert (tmp_path / "there").read_text() == "precious"


def test_an_error_of_the_reader_ends_the_writing_soon(tmp_path):
    disk = BytesReader([("same", 200 * MiB)])
    first = threading.Event()

    def broken(offset, length):
        first.set()
        disk.reads.append(offset)
        raise RefusedError("the reader")

    disk.read = broken
    with pytest.raises(RefusedError):
        rawdisk.write_raw(disk, tmp_path / "out", quiet)

    assert first.is_set()
    assert len(disk.reads) <= 9


def test_a_disk_of_many_terabytes_takes_no_more_memory_than_a_small_one(tmp_path):
    """One process each: its peak is what counts."""
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom darkroom import rawdisk\n"
        "from darkroom.model import Extent, GiB\n"
        "class Holes:\n"
        "    size = int(sys.argv[1]) * GiB\n"
        "    def extents(self, offset, length):\n"
        "        return [Extent(offset, 4096, False), Extent(offset + 4096, length - 4096, True)]\n"
        "    def read(self, offset, length): return b'x' * length\n"
        "rawdisk.write_raw(Holes(), Path(sys.argv[2]), lambda done, total: None)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    peaks = []
    for size in (1, 4096):
        command = [sys.executable, "-c", code, str(size), tmp_path / f"{size}"]
        peaks.append(int(subprocess.run(command, capture_output=True, check=True, text=True).stdout))
        (tmp_path / f"{size}").unlink()

    assert peaks[1] <= 1.1 * peaks[0]
