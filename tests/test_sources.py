import contextlib
import hashlib
import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

import blake3
import pytest

from darkroom import sources
from darkroom.errors import DarkroomError
from darkroom.model import MiB
from darkroom.settings import Settings
from darkroom.sources import remote

DATA = random.Random(9).randbytes(3 * MiB + 7)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "disk.vmdk"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def spool(tmp_path):
    return tmp_path / "spool"


def refused(url, spool):
    with pytest.raises(DarkroomError) as caught, sources.open_source(str(url), Settings(), spool):
        pass
    return caught.value


def test_a_path_is_read_through_one_descriptor(file, spool):
    with sources.open_source(str(file), Settings(), spool) as source:
        file.rename(file.with_name("other"))
        file.write_bytes(b"put in its place")
        assert source.reader.read(0, len(DATA)) == os.pread(source.fd, len(DATA), 0) == DATA
        assert (source.url, source.name, source.hint) == (str(file), "disk.vmdk", "vmdk")
        assert not os.get_inheritable(source.fd)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(source.fd, b"x")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(source.fd)
    assert not spool.exists()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("a.raw", "raw"), ("a.img", ""), ("a.QCOW2", "qcow2"), ("a.qcow", "qcow"), ("a.qed", "qed"), ("a.vhd", "vhd"),
        ("a.vpc", "vhd"), ("a.vhdx", "vhdx"), ("a.vdi", "vdi"), ("a.iso", "iso"), ("a.zvhd2", "zvhd2"), ("a", ""),
        ("qcow2.bak", ""),
    ],
)  # fmt: skip
def test_a_name_declares_a_format(tmp_path, spool, name, hint):
    (tmp_path / name).write_bytes(b"x")

    with sources.open_source(str(tmp_path / name), Settings(), spool) as source:
        assert source.hint == hint


@pytest.mark.parametrize("name", ["a b.raw", "a#b.raw", "a?b.raw", "a%20b.raw", "vm:disk.raw", "a@b.raw", "ü.raw"])
def test_a_path_is_taken_literally_and_a_file_url_decoded(tmp_path, spool, name, monkeypatch):
    (tmp_path / name).write_bytes(name.encode())
    monkeypatch.chdir(tmp_path)

    for url in (name, str(tmp_path / name), (tmp_path / name).as_uri()):
        with sources.open_source(url, Settings(), spool) as source:
            assert source.reader.read(0, source.reader.size) == name.encode()


def test_holes_of_the_file_are_zero_extents(tmp_path, spool):
    path = tmp_path / "disk.raw"
    with open(path, "wb") as file:
        file.truncate(64 * MiB)
        file.seek(32 * MiB)
        file.write(b"x" * MiB)

    with sources.open_source(str(path), Settings(), spool) as source:
        found = [(e.start // MiB, e.length // MiB, e.zero) for e in source.reader.extents(0, 64 * MiB)]
        assert found == [(0, 32, True), (32, 1, False), (33, 31, True)]


@pytest.mark.parametrize(
    "change",
    [
        lambda path: os.truncate(path, MiB),
        lambda path: os.truncate(path, 9 * MiB),
        lambda path: path.open("r+b").write(b"y"),
        lambda path: os.utime(path, ns=(0, 0)),
    ],
    ids=["shrunk", "grown", "written", "touched"],
)
def test_a_file_that_changes_while_it_is_open_is_noticed(file, spool, change):
    with sources.open_source(str(file), Settings(), spool) as source:
        source.check_unchanged()
        change(file)
        with pytest.raises(sources.SourceChangedError, match="source-changed"):
            source.check_unchanged()


def test_a_read_from_a_file_that_shrank_never_comes_up_short(file, spool):
    with sources.open_source(str(file), Settings(), spool) as source:
        os.truncate(file, MiB)
        with pytest.raises(sources.SourceChangedError):
            source.reader.read(MiB - 5, 10)


def test_the_identity_holds_over_opens_and_not_over_changes(file, spool):
    shown, identity = sources.identify(str(file), Settings())
    with sources.open_source(str(file), Settings(), spool) as source:
        assert (source.url, source.identity) == (shown, identity)

    copy = file.with_name("copy")
    copy.write_bytes(DATA)
    os.utime(copy, ns=(os.stat(file).st_mtime_ns,) * 2)
    copy.replace(file)
    assert sources.identify(str(file), Settings())[1] != identity


@pytest.mark.parametrize("kind", ["folder", "pipe", "socket", "device"])
def test_what_is_no_file_is_refused_and_does_not_hang(tmp_path, spool, kind):
    path = tmp_path / "thing"
    with contextlib.ExitStack() as stack:
        if kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            stack.enter_context(socket.socket(socket.AF_UNIX)).bind(str(path))
        else:
            path = Path("/dev/zero")
        assert refused(path, spool).code == "source-kind"


def test_a_file_that_is_not_there_is_missing(tmp_path, spool, file):
    for path in (tmp_path / "none", file / "below", tmp_path / "a\0b"):
        error = refused(path, spool)
        assert (error.code, error.exit_code) == ("source-not-found", 4)


def test_a_file_that_may_not_be_read_is_refused(file, spool):
    file.chmod(0)
    file.parent.chmod(0o755)
    script = f"""if True:
        import os
        from pathlib import Path
        from darkroom.sources import local
        from darkroom.errors import DarkroomError
        if os.getuid() == 0:
            os.setgroups([]), os.setgid(65534), os.setuid(65534)
        try:
            local._open(Path({file.name!r}))
        except DarkroomError as error:
            print(error.code, error.exit_code)
    """
    # From within its folder, to which the other account may have no way from the root.
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=file.parent,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["source-denied", "3"]


def test_a_block_device_is_read(spool, tmp_path):
    path = tmp_path / "disk.raw"
    path.write_bytes(DATA[: 2 * MiB])
    made = subprocess.run(["losetup", "--find", "--show", path], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip("no loop devices here")
    device = made.stdout.strip()
    try:
        with sources.open_source(device, Settings(), spool) as source:
            assert source.reader.size == 2 * MiB
            assert source.reader.read(MiB, MiB) == DATA[MiB : 2 * MiB]
            assert sum(extent.length for extent in source.reader.extents(0, 2 * MiB)) == 2 * MiB
            assert source.identity.endswith(f"{2 * MiB} bytes")
            source.check_unchanged()
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://a.example/x?token=hunter2", "http://user:hunter2@a.example/x", "s3://key:hunter2@bucket/x", "s3://bucket",
        "s3://bucket/", "s3:///key", "http://", "http:///x", "https://[bad/x", "http://a.example:99999/x",
        "http://a.example:0/x", "file://other/x", "://x", "ssh://a/x", "nbd+vsock://1/x", "http://" + "a" * 70 + "/x",
    ],
)  # fmt: skip
def test_other_addresses_are_refused_and_their_secrets_not_shown(spool, url):
    error = refused(url, spool)
    assert (error.code, error.exit_code) == ("source-url", 3)
    assert "hunter2" not in str(error)
    with pytest.raises(DarkroomError, match="source-url"):
        sources.identify(url, Settings())


@pytest.mark.parametrize("algorithm", ["sha256", "sha512", "sha384", "sha1", "md5", "blake2b", "blake3"])
def test_a_digest_is_compared_with_the_file(file, spool, algorithm):
    digest = blake3.blake3(DATA).hexdigest() if algorithm == "blake3" else hashlib.new(algorithm, DATA).hexdigest()
    seen = []

    with sources.open_source(str(file), Settings(), spool) as source:
        sources.verify_digest(source, f"{algorithm}:{digest.upper()}", lambda done, total: seen.append((done, total)))
        assert sources.digest_of(source, algorithm, lambda *_: None) == digest
        with pytest.raises(sources.DigestMismatchError) as caught:
            sources.verify_digest(source, f"{algorithm}:{digest[::-1]}", lambda *_: None)
    assert (caught.value.found, caught.value.exit_code) == (f"{algorithm}:{digest}", 3)
    assert seen[-1] == (len(DATA), len(DATA))


def test_the_digest_is_that_of_the_file_as_it_was_published(file, spool):
    subprocess.run(["zstd", "-q", file], check=True)
    packed = Path(f"{file}.zst")
    declared = subprocess.run(["sha256sum", packed], capture_output=True, text=True, check=True).stdout.split()[0]

    with sources.open_source(str(packed), Settings(), spool) as source:
        sources.verify_digest(source, f"sha256:{declared}", lambda *_: None)
        assert source.reader.read(0, len(DATA)) == DATA


@pytest.mark.parametrize("declared", ["sha256", "sha256:", "sha256:00", f"sha256:{'g' * 64}", "crc32:00", ":00", "x"])
def test_a_digest_that_cannot_be_compared_is_refused(file, spool, declared):
    with pytest.raises(sources.DigestFormatError):
        sources.check_digest(declared)
    with sources.open_source(str(file), Settings(), spool) as source, pytest.raises(sources.DigestFormatError):
        sources.verify_digest(source, declared, lambda *_: None)


@contextlib.contextmanager
def exported(file, folder):
    """A real NBD server on a unix socket."""
    address = folder / "nbd.sock"
    command = ["setpriv", "--pdeathsig", "KILL", "qemu-nbd", "-f", "raw", "-r", "-t", "-x", "disk", "-k", address, file]
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 20
        while not address.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield f"nbd+unix:///disk?socket={address}"
    finally:
        process.kill()
        process.wait()


def test_an_nbd_export_is_a_disk(spool, tmp_path, short_folder):
    path = tmp_path / "disk.raw"
    path.write_bytes(b"\x1f\x8b\x08 looks compressed, and is not" + bytes(4 * MiB))

    with exported(path, tmp_path) as url:
        with sources.open_source(url, Settings(), spool) as source:
            assert (source.is_disk, source.name, source.fd) == (True, "disk", None)
            assert source.reader.read(0, path.stat().st_size) == path.read_bytes()
            identity = source.identity
        assert sources.identify(url, Settings()) == (url, identity)
    assert refused(url, spool).exit_code == 6


def test_a_window_that_failed_is_asked_for_again():
    answers = [sources.SourceUnavailableError("x")] * 4 + [b"abc"]

    def fetch(offset, length):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    reader = remote.WindowReader("x", 3, fetch)
    remote_pauses, remote._PAUSES = remote._PAUSES, (0, 0, 0)
    try:
        with pytest.raises(sources.SourceUnavailableError):
            reader.read(0, 3)
        assert reader.read(0, 3) == b"abc"
    finally:
        remote._PAUSES = remote_pauses


def test_reads_behind_the_end_of_a_remote_file_are_refused():
    reader = remote.WindowReader("x", 3, lambda offset, length: b"abc"[offset : offset + length])

    assert reader.read(3, 0) == b""
    assert reader.read(1, 2) == b"bc"
    with pytest.raises(sources.SourceChangedError):
        reader.read(2, 2)


def test_few_windows_are_kept_and_an_old_one_is_fetched_again():
    fetched = []

    def fetch(offset, length):
        fetched.append(offset)
        return bytes(length)

    reader = remote.WindowReader("x", 40 * remote.WINDOW, fetch)
    for number in [*range(40), 39, 38, 0]:
        reader.read(number * remote.WINDOW, 1)
    assert fetched == [number * remote.WINDOW for number in [*range(40), 0]]


def test_opening_a_path_imports_nothing_heavy():
    script = """if True:
        import sys, pathlib
        from darkroom import sources
        from darkroom.settings import Settings
        with sources.open_source(sys.argv[1], Settings(), pathlib.Path("/nonexistent")):
            print(sorted({"boto3", "urllib3", "prefect", "pandas"} & set(sys.modules)))
    """
    done = subprocess.run([sys.executable, "-c", script, __file__], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
