"""The NBD client against real qemu-nbd processes and against our server."""

import contextlib
import itertools
import random
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings

from darkroom.model import CHUNK_SIZE, KiB, MiB
from darkroom.nbd import client, negotiation, server
from darkroom.nbd import protocol as p
from tests.strategies import BytesReader, parts


@pytest.fixture
def folder(home):
    home.mkdir()
    yield home
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("nbd")]


@contextlib.contextmanager
def connected(uri, connections=4):
    reader = client.connect(uri, connections)
    try:
        yield reader
    finally:
        reader.close()


@pytest.fixture
def qemu_nbd(folder):
    """Starts qemu-nbd on a file; its process and address."""
    processes = []

    def start(path, *arguments):
        address = folder / f"q{len(processes)}"
        where = arguments or ("-k", address)
        command = ["setpriv", "--pdeathsig", "KILL", "qemu-nbd", "-f", "raw", "-r", "-t", "-e", "8", *where, path]
        processes.append(subprocess.Popen(command))
        deadline = time.monotonic() + 20
        while True:
            try:
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.connect(str(address))
                return processes[-1], f"nbd+unix:///?socket={address}"
            except (FileNotFoundError, ConnectionRefusedError):
                assert processes[-1].poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.01)

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def sparse(tmp_path):
    """A file with data at 1 to 2 MiB and in its last 4 KiB, and holes."""
    path = tmp_path / "sparse"
    with open(path, "wb") as file:
        file.seek(MiB)
        file.write(random.Random(3).randbytes(MiB))
        file.seek(8 * MiB - 4 * KiB)
        file.write(b"e" * 4 * KiB)
    return path


def test_every_byte_of_a_real_server_at_every_boundary(qemu_nbd, sparse):
    data = sparse.read_bytes()
    edges = sorted({max(edge + by, 0) for edge in (0, MiB, 2 * MiB, 8 * MiB - 4096) for by in (-513, -1, 0, 1, 511)})

    with connected(qemu_nbd(sparse)[1]) as reader:
        assert reader.size == len(data)
        assert reader.read(0, 0) == b""
        for start in edges:
            for length in (1, 511, 512, 513, CHUNK_SIZE + 1):
                length = min(length, reader.size - start)
                assert reader.read(start, length) == data[start : start + length]


def test_the_extents_of_a_real_server_are_exact(qemu_nbd, sparse):
    with connected(qemu_nbd(sparse)[1]) as reader:
        found = [(extent.start, extent.end, extent.zero) for extent in reader.extents(0, reader.size)]
        inside = [(extent.start, extent.end, extent.zero) for extent in reader.extents(MiB - 512, 1024)]

    last = 8 * MiB - 4 * KiB
    assert found == [(0, MiB, True), (MiB, 2 * MiB, False), (2 * MiB, last, True), (last, 8 * MiB, False)]
    assert inside == [(MiB - 512, MiB, True), (MiB, MiB + 512, False)]


def test_extents_of_a_disk_of_many_gigabytes_are_asked_for_until_all_is_covered(qemu_nbd, tmp_path):
    with open(tmp_path / "large", "wb") as file:
        file.truncate(20 << 30)
        file.seek(13 << 30)
        file.write(b"x" * 4096)

    with connected(qemu_nbd(tmp_path / "large")[1]) as reader:
        found = [(extent.start, extent.length, extent.zero) for extent in reader.extents(0, reader.size)]

    assert found == [(0, 13 << 30, True), (13 << 30, 4096, False), ((13 << 30) + 4096, (7 << 30) - 4096, True)]


@settings(max_examples=40, deadline=None)
@given(described=parts)
def test_any_disk_comes_through_our_server_and_back(short_folder, described):
    path = short_folder / "any"
    with server.NbdServer(BytesReader(described), path) as serving, connected(serving.uri) as reader:
        given_disk = serving.reader
        assert reader.size == given_disk.size
        assert reader.read(0, reader.size) == given_disk.data
        middle = reader.size // 3
        extents = reader.extents(middle, reader.size - middle)

    known, expected = bytearray(reader.size), b""
    for extent in given_disk.extents(0, reader.size):
        known[extent.start : extent.end] = bytes([extent.zero]) * extent.length
    for sector in range(middle // 512 * 512, reader.size, 512):
        part = known[max(sector, middle) : sector + 512]
        expected += bytes([all(part)]) * len(part)
    assert b"".join(bytes([extent.zero]) * extent.length for extent in extents) == expected
    assert [extent.start for extent in extents] == [middle, *(extent.end for extent in extents)][:-1]
    assert all(one.zero != two.zero for one, two in itertools.pairwise(extents))


def test_many_threads_share_a_few_connections(folder):
    disk = BytesReader([("data", 4 * MiB)])
    source = random.Random(1)
    ranges = [(start, source.randrange(disk.size - start)) for start in source.sample(range(disk.size), 200)]
    with server.NbdServer(disk, folder / "s") as serving, connected(serving.uri, 3) as reader:
        assert len(serving._connections) == 3
        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(lambda part: reader.read(*part), ranges))

    assert found == [disk.data[start : start + length] for start, length in ranges]


def test_a_server_that_does_not_promise_one_view_gets_one_connection(folder, monkeypatch):
    monkeypatch.setattr(negotiation, "_EXPORT_FLAGS", p.HAS_FLAGS | p.READ_ONLY)
    with server.NbdServer(BytesReader([("data", 512)]), folder / "s") as serving, connected(serving.uri) as reader:
        assert len(serving._connections) == 1
        assert reader.read(0, 512) == serving.reader.data


def test_a_long_read_is_split(folder):
    disk = BytesReader([("same", 70 * MiB + 1)])
    with server.NbdServer(disk, folder / "s") as serving, connected(serving.uri) as reader:
        assert reader.read(1, 70 * MiB) == disk.data[1:]

    assert disk.reads == [(1, 32 * MiB), (32 * MiB + 1, 32 * MiB), (64 * MiB + 1, 6 * MiB)]


def test_a_hole_that_need_not_read_as_zeros_is_data(folder, monkeypatch):
    monkeypatch.setattr(p, "STATE_ZERO", 0)
    with server.NbdServer(BytesReader([("hole", MiB)]), folder / "s") as serving, connected(serving.uri) as reader:
        assert [extent.zero for extent in reader.extents(0, MiB)] == [False]


def test_a_server_without_extents_is_all_data(folder, monkeypatch):
    monkeypatch.setattr(negotiation, "META_CONTEXT", b"x:y")
    with server.NbdServer(BytesReader([("hole", MiB)]), folder / "s") as serving, connected(serving.uri) as reader:
        assert [(extent.start, extent.length, extent.zero) for extent in reader.extents(5, 7)] == [(5, 7, False)]
        assert reader.extents(5, 0) == []


def test_an_export_over_tcp_by_its_name(qemu_nbd, sparse):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        "qemu-nbd",
        "-f",
        "raw",
        "-r",
        "-t",
        "-e",
        "8",
        "-b",
        "127.0.0.1",
        "-p",
        str(port),
        "-x",
        "a disk",
        sparse,
    ]
    process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command])
    try:
        deadline = time.monotonic() + 20
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with connected(f"nbd://127.0.0.1:{port}/a%20disk") as reader:
            assert reader.read(MiB, 4096) == sparse.read_bytes()[MiB : MiB + 4096]
        with pytest.raises(client.NbdUnavailableError):
            client.connect(f"nbd://127.0.0.1:{port}/another")
    finally:
        process.kill()
        process.wait()


def test_a_server_that_is_not_there_is_unavailable(folder):
    with pytest.raises(client.NbdUnavailableError) as caught:
        client.connect(f"nbd+unix:///?socket={folder}/nobody")

    assert (caught.value.exit_code, caught.value.retryable) == (6, True)
    assert f"nbd+unix:///?socket={folder}/nobody" in str(caught.value)


def test_a_server_killed_in_the_middle_of_a_read_is_unavailable(qemu_nbd, sparse):
    process, uri = qemu_nbd(sparse)
    with connected(uri) as reader, ThreadPoolExecutor(4) as pool:
        process.send_signal(signal.SIGSTOP)
        waiting = [pool.submit(reader.read, MiB, 4096) for _ in range(4)]
        while len(reader._busy) < 4:
            time.sleep(0.001)
        process.kill()
        for future in waiting:
            with pytest.raises(client.NbdUnavailableError):
                future.result(20)
        with pytest.raises(client.NbdUnavailableError):
            reader.extents(0, 4096)


def test_a_server_that_stops_answering_is_given_up(qemu_nbd, sparse, monkeypatch):
    monkeypatch.setattr(client, "_STALLED", 0.2)
    process, uri = qemu_nbd(sparse)
    with connected(uri) as reader:
        assert len(reader.read(0, 512)) == 512
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(client.NbdUnavailableError):
            reader.read(MiB, 512)


def test_a_server_that_never_greets_is_given_up(folder, monkeypatch):
    monkeypatch.setattr(client, "_STALLED", 0.2)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(folder / "silent"))
        silent.listen()
        with pytest.raises(client.NbdUnavailableError, match="expected an answer"):
            client.connect(f"nbd+unix:///?socket={folder}/silent")


def test_a_server_that_speaks_something_else_is_unavailable(folder):
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(folder / "other"))
        other.listen()

        def speak():
            connection, _ = other.accept()
            with connection:
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n" * 20)

        thread = threading.Thread(target=speak)
        thread.start()
        with pytest.raises(client.NbdUnavailableError):
            client.connect(f"nbd+unix:///?socket={folder}/other")
        thread.join()


def test_a_server_that_breaks_a_promise_of_extents_does_not_hang_us(folder):
    class Broken(BytesReader):
        def extents(self, offset, length):
            return []

    with server.NbdServer(Broken([("data", MiB)]), folder / "s") as serving, connected(serving.uri) as reader:
        with pytest.raises(client.NbdUnavailableError):
            reader.extents(0, MiB)
