import hashlib
import os
import random
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from darkroom import sources
from darkroom.errors import DarkroomError
from darkroom.model import GiB, KiB, MiB
from darkroom.settings import Limits, Settings
from darkroom.sources import spool as spool_module

TOOLS = {"gz": ["gzip", "-1"], "xz": ["xz", "-0"], "zst": ["zstd", "-q"], "bz2": ["bzip2", "-1"]}
KINDS = sorted(TOOLS)


def compress(kind, data, *options):
    return subprocess.run([*TOOLS[kind], *options, "-c"], input=data, capture_output=True, check=True).stdout


def sha256(reader):
    hasher = hashlib.sha256()
    for at in range(0, reader.size, MiB):
        hasher.update(reader.read(at, min(MiB, reader.size - at)))
    return hasher.hexdigest()


@pytest.fixture(scope="module")
def disk():
    """Text, random bytes and holes, with an odd size; 40 MiB."""
    source = random.Random(3)
    text = b"a line of a file on the disk\n" * 30_000
    return b"".join([source.randbytes(300_000), bytes(20 * MiB), text, bytes(20 * MiB), source.randbytes(12_345)])


@pytest.fixture
def write(tmp_path):
    def write(name, data):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


@pytest.fixture
def spool(tmp_path):
    return tmp_path / "spool"


def opened(path, spool, limits=None, **arguments):
    return sources.open_source(str(path), Settings(limits=limits or Limits()), spool, **arguments)


def refused(path, spool, limits=None):
    with pytest.raises(DarkroomError) as caught, opened(path, spool, limits):
        pass
    assert [entry.name for entry in spool.glob("*") if entry.name.endswith(".part")] == []
    return caught.value.code


@pytest.mark.parametrize("kind", KINDS)
def test_a_compressed_disk_is_decompressed_into_the_spool_with_its_holes(write, spool, disk, kind):
    path = write(f"disk.qcow2.{kind}", compress(kind, disk))
    seen = []

    with opened(path, spool, progress=lambda done, total: seen.append((done, total))) as source:
        assert sha256(source.reader) == hashlib.sha256(disk).hexdigest()
        assert (source.name, source.hint) == ("disk.qcow2", "qcow2")
        assert os.fstat(source.fd).st_blocks * 512 < 2 * MiB
        assert sum(extent.length for extent in source.reader.extents(0, len(disk)) if extent.zero) > 39 * MiB
        assert source.published.size == path.stat().st_size
        source.check_unchanged()
    assert seen[-1] == (path.stat().st_size, path.stat().st_size)


@pytest.mark.parametrize("kind", KINDS)
def test_members_one_after_the_other_are_one_disk(write, spool, disk, kind):
    cut = 21 * MiB + 5
    path = write(f"disk.raw.{kind}", compress(kind, disk[:cut]) + compress(kind, b"") + compress(kind, disk[cut:]))

    with opened(path, spool) as source:
        assert sha256(source.reader) == hashlib.sha256(disk).hexdigest()


@pytest.mark.parametrize("size", [0, 1, 64 * KiB - 1, 64 * KiB, 256 * KiB, 4 * MiB, 4 * MiB + 1])
@pytest.mark.parametrize("kind", KINDS)
def test_every_size_comes_out_whole(write, spool, kind, size):
    data = random.Random(size).randbytes(size)
    path = write(f"disk.raw.{kind}", compress(kind, data))

    with opened(path, spool) as source:
        assert source.reader.size == size
        assert source.reader.read(0, size) == data


@pytest.mark.parametrize(
    "options",
    [["--no-check"], ["-19"], ["--long=27"], ["--single-thread"], ["-T2", "--rsyncable"]],
    ids=lambda options: options[0],
)
def test_zstd_frames_of_every_kind_are_read(write, spool, disk, options):
    path = write("disk.raw.zst", compress("zst", disk[: 5 * MiB], *options))

    with opened(path, spool) as source:
        assert source.reader.read(0, 5 * MiB) == disk[: 5 * MiB]


def test_zstd_frames_with_skippable_ones_between_are_read(write, spool, disk):
    plain = write("plain", disk[: 9 * MiB])
    made = subprocess.run(["pzstd", "-q", "-p", "4", "-c", plain], capture_output=True, check=True).stdout
    assert made[:4] == bytes.fromhex("502a4d18")
    path = write("disk.raw.zst", made + struct.pack("<II", 0x184D2A5F, 100_000) + bytes(100_000))

    with opened(path, spool) as source:
        assert source.reader.read(0, source.reader.size) == disk[: 9 * MiB]


def test_xz_streams_with_padding_are_read(write, spool):
    data = bytes(range(256)) * 1000
    path = write("disk.raw.xz", compress("xz", data) + bytes(300 * KiB) + compress("xz", data) + bytes(8))

    with opened(path, spool) as source:
        assert source.reader.read(0, source.reader.size) == data * 2


@pytest.mark.parametrize("kept", [0.999, 0.5, 20])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_short_is_refused(write, spool, disk, kind, kept):
    made = compress(kind, disk)
    path = write(f"disk.raw.{kind}", made[: kept if kept > 1 else int(len(made) * kept)])

    assert refused(path, spool) == "compressed-damaged"


@pytest.mark.parametrize("kind", KINDS)
def test_each_of_the_last_bytes_is_needed(write, spool, kind):
    made = compress(kind, b"the disk" * 1000)

    for count in range(1, 9):
        assert refused(write(f"disk.raw.{kind}", made[:-count]), spool) == "compressed-damaged"


@pytest.mark.parametrize("garbage", [b"x", b"garbage" * 100_000, b"\x1f\x8b", b"\x28\xb5\x2f", b"BZh", b"\xfd7z"])
@pytest.mark.parametrize("kind", KINDS)
def test_something_else_behind_the_end_is_refused(write, spool, kind, garbage):
    path = write(f"disk.raw.{kind}", compress(kind, b"the disk" * 1000) + garbage)

    assert refused(path, spool) == "compressed-damaged"


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_refused(write, spool, kind):
    made = bytearray(compress(kind, random.Random(5).randbytes(200_000)))
    made[100_000] ^= 1

    assert refused(write(f"disk.raw.{kind}", made), spool) == "compressed-damaged"


@pytest.mark.parametrize("kind", KINDS)
def test_one_compression_inside_another_is_refused(write, spool, kind):
    path = write(f"disk.raw.gz.{kind}", compress(kind, compress("gz", b"the disk" * 1000)))

    assert refused(path, spool) == "compression-refused"


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_that_says_another_compression_is_refused(write, spool, kind):
    other = KINDS[KINDS.index(kind) - 1]

    assert refused(write(f"disk.raw.{kind}", compress(other, b"the disk")), spool) == "compressed-damaged"
    assert refused(write(f"disk.raw.{kind}", b"the disk itself"), spool) == "compressed-damaged"


@pytest.mark.parametrize("kind", KINDS)
def test_compression_is_seen_without_a_name_for_it(write, spool, kind):
    with opened(write("disk.vmdk", compress(kind, b"the disk")), spool) as source:
        assert (source.reader.read(0, 8), source.hint) == (b"the disk", "vmdk")


@pytest.mark.parametrize("name", ["zip", "7z", "rar"])
def test_archives_are_refused_with_what_to_do(write, spool, name):
    magic = {"zip": b"PK\x03\x04", "7z": b"7z\xbc\xaf\x27\x1c", "rar": b"Rar!\x1a\x07\x01\x00"}[name]
    path = write(f"disk.{name}", magic + bytes(1000))

    with pytest.raises(DarkroomError, match=rf"compression-refused: disk.{name}: .*found {name}; unpack it"):
        opened(path, spool).__enter__()


def test_a_gibibyte_of_zeros_with_a_little_data_costs_no_disk(write, spool):
    made = compress("gz", b"".join([random.Random(1).randbytes(MiB), bytes(GiB - MiB)]))

    with opened(write("disk.raw.gz", made), spool) as source:
        assert source.reader.size == GiB
        assert os.fstat(source.fd).st_blocks * 512 < 2 * MiB


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zst"])
def test_a_bomb_is_refused_by_its_ratio(write, spool, kind):
    path = write(f"disk.raw.{kind}", compress(kind, bytes(128 * MiB)))

    assert refused(path, spool, Limits(expansion=100)) == "expansion-bomb"
    assert list(spool.glob("disk-*")) == []


def test_a_disk_over_the_limit_is_refused(write, spool, disk):
    path = write("disk.raw.zst", compress("zst", disk))

    assert refused(path, spool, Limits(virtual_size=30 * MiB)) == "source-too-large"


def rle_bomb(blocks):
    """A zstd frame in which each four bytes make 128 KiB."""
    header = bytes.fromhex("28b52ffd") + bytes([0, 0x58])
    block = struct.pack("<I", 1 << 1 | 128 * KiB << 3)[:3] + b"\0"
    return header + block * blocks + struct.pack("<I", 1)[:3]


@pytest.mark.parametrize("kind", ["rle", "xz", "zst", "bz2"])
def test_a_bomb_takes_little_memory(write, spool, kind):
    made = rle_bomb(8000) if kind == "rle" else compress(kind, bytes(256 * MiB))
    path = write(f"disk.raw.{'zst' if kind == 'rle' else kind}", made)
    script = """if True:
        import pathlib, resource, sys
        from darkroom import sources
        from darkroom.settings import Limits, Settings
        from darkroom.sources import compressed, ova
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with sources.open_source(sys.argv[1], Settings(limits=Limits(expansion=10**6)), pathlib.Path(sys.argv[2])) as s:
            print(s.reader.size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    done = subprocess.run([sys.executable, "-c", script, path, spool], capture_output=True, text=True, check=True)
    size, kibibytes = map(int, done.stdout.split())
    assert size == (8000 * 128 * KiB if kind == "rle" else 256 * MiB)
    assert kibibytes < 64 * 1024


def test_a_decoder_that_wants_too_much_memory_is_refused(write, spool):
    data = random.Random(2).randbytes(MiB)
    assert refused(write("disk.raw.zst", compress("zst", data, "--ultra", "--long=31")), spool) == "compression-refused"
    assert refused(write("disk.raw.xz", compress("xz", data, "--lzma2=dict=1GiB")), spool) == "compression-refused"


def test_the_spool_is_used_again_for_the_same_file_and_not_for_another(write, spool, disk):
    path = write("disk.raw.zst", compress("zst", disk))
    with opened(path, spool) as first:
        inode = os.fstat(first.fd).st_ino

    with opened(path, spool, progress=lambda *_: pytest.fail("decompressed again")) as second:
        assert os.fstat(second.fd).st_ino == inode
        assert second.identity == first.identity
    path.write_bytes(compress("zst", b"another"))
    with opened(path, spool) as third:
        assert third.reader.read(0, third.reader.size) == b"another"
        assert third.identity != first.identity


def test_what_a_killed_process_left_is_not_taken_for_the_disk(write, spool, disk):
    path = write("disk.raw.zst", compress("zst", disk))
    script = """if True:
        import os, pathlib, signal, sys
        from darkroom import sources
        from darkroom.settings import Settings
        die = lambda done, total: os.kill(os.getpid(), signal.SIGKILL)
        sources.open_source(sys.argv[1], Settings(), pathlib.Path(sys.argv[2]), die).__enter__()
    """
    killed = subprocess.run([sys.executable, "-c", script, path, spool], check=False)
    assert killed.returncode == -9
    assert len(list(spool.glob("*.part"))) == 1

    with opened(path, spool) as source:
        assert sha256(source.reader) == hashlib.sha256(disk).hexdigest()
    assert list(spool.glob("*.part")) == []


def test_two_at_once_decompress_once(write, spool, disk):
    path = write("disk.raw.zst", compress("zst", disk))

    def inode(_):
        with opened(path, spool) as source:
            assert sha256(source.reader) == hashlib.sha256(disk).hexdigest()
            return os.fstat(source.fd).st_ino

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(inode, range(8)))) == 1


def test_a_disk_that_is_full_is_named(write, tmp_path):
    """On a real file system of 8 MiB."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", small], check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip("a file system can be mounted by root only")
    try:
        path = write("disk.raw.zst", compress("zst", random.Random(4).randbytes(20 * MiB)))
        with pytest.raises(spool_module.SpoolFullError, match=r"spool-full: .*make room"):
            opened(path, small / "spool").__enter__()
        assert [entry.name for entry in (small / "spool").iterdir()] == ["lock"]
    finally:
        subprocess.run(["umount", small], check=True)
