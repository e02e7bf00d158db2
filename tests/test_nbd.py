"""Our NBD server judged by other clients, our client against another server, and both by each other."""

import contextlib
import socket
import struct
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from darkroom.chunks import ChunkInvalidError
from darkroom.model import MiB
from darkroom.nbd import client, server
from darkroom.nbd import protocol as p
from tests.strategies import BytesReader

DISK = [
    ("data", 3 * MiB + 512),
    ("hole", 5 * MiB),
    ("zero", 1 * MiB),
    ("data", 700 * 1024),
    ("hole", 2 * MiB),
    ("data", 512),
]


@pytest.fixture
def disk():
    return BytesReader(DISK)


@pytest.fixture
def serving(disk, short_folder, home):
    home.mkdir()
    with server.NbdServer(disk, home / "nbd") as found:
        yield found
    assert not (home / "nbd").exists()


@pytest.fixture
def qemu_nbd(disk, tmp_path, home):
    """The same disk behind qemu-nbd."""
    raw = tmp_path / "disk.raw"
    with open(raw, "wb") as file:
        file.truncate(disk.size)
        for extent in disk.extents(0, disk.size):
            if not extent.zero:
                file.seek(extent.start)
                file.write(disk.read(extent.start, extent.length))
    home.mkdir(exist_ok=True)
    path = home / "qemu"
    process = subprocess.Popen(["qemu-nbd", "-r", "-t", "-e", "8", "-f", "raw", "-k", path, raw])
    while True:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                break
        assert process.poll() is None
        time.sleep(0.01)
    yield f"nbd+unix:///?socket={path}", process
    process.kill()
    process.wait()


def test_nbdinfo_sees_a_read_only_disk_with_its_extents(serving, disk):
    import json

    shown = json.loads(subprocess.run(["nbdinfo", "--json", serving.uri], capture_output=True, check=True).stdout)
    export = shown["exports"][0]
    assert (export["export-size"], export["is_read_only"], export["can_multi_conn"]) == (disk.size, True, True)
    mapped = subprocess.run(["nbdinfo", "--json", "--map", serving.uri], capture_output=True, check=True).stdout
    zero = [(e["offset"], e["length"]) for e in json.loads(mapped) if e["type"] == 3]
    assert zero == [(e.start, e.length) for e in disk.extents(0, disk.size) if e.zero]


def test_nbdcopy_and_qemu_img_read_the_same_bytes(serving, disk, tmp_path, qemu_img):
    subprocess.run(["nbdcopy", serving.uri, str(tmp_path / "copy")], check=True)
    assert (tmp_path / "copy").read_bytes() == disk.data
    qemu_img("convert", "-f", "raw", "-O", "qcow2", "-m", "16", "-W", serving.uri, tmp_path / "copy.qcow2")
    assert "identical" in qemu_img("compare", "-f", "raw", "-F", "qcow2", tmp_path / "copy", tmp_path / "copy.qcow2")


@pytest.mark.parametrize("kind", ["ours", "qemu"])
def test_our_client_reads_exact_ranges_and_extents(request, disk, kind):
    uri = request.getfixturevalue("serving").uri if kind == "ours" else request.getfixturevalue("qemu_nbd")[0]
    reader = client.connect(uri)
    assert reader.size == disk.size
    for offset in (0, 1, 511, 512, 513, 3 * MiB + 511, disk.size - 1):
        for length in (0, 1, 511, 512, 513, 2 * MiB + 7):
            length = min(length, disk.size - offset)
            assert reader.read(offset, length) == disk.data[offset : offset + length]
    for offset, length in [(0, disk.size), (3 * MiB, 2 * MiB), (8 * MiB, 512)]:
        found = reader.extents(offset, length)
        assert found[0].start == offset
        assert sum(extent.length for extent in found) == length
        for extent in found:
            assert not extent.zero or not any(disk.data[extent.start : extent.end])
    reader.close()


def test_many_threads_read_at_once(serving, disk):
    reader = client.connect(serving.uri)
    ranges = [(number * 4099 % (disk.size - 100_000), 100_000) for number in range(300)]
    with ThreadPoolExecutor(8) as pool:
        for (offset, length), data in zip(ranges, pool.map(lambda r: reader.read(*r), ranges), strict=True):
            assert data == disk.data[offset : offset + length]
    reader.close()


def test_more_than_one_request_holds_is_split(serving):
    big = BytesReader([("data", 70 * MiB)])
    serving.reader = big
    reader = client.connect(serving.uri)

    assert reader.read(1, 70 * MiB - 1) == big.data[1:]
    reader.close()


def test_an_error_of_the_reader_reaches_the_client_and_the_owner(serving, disk):
    def broken(offset, length):
        raise ChunkInvalidError("chunk x")

    disk.read = broken
    reader = client.connect(serving.uri)
    with pytest.raises(client.NbdUnavailableError, match="Input/output error"):
        reader.read(0, 512)
    reader.close()

    assert isinstance(serving.errors[0], ChunkInvalidError)


def test_a_server_that_dies_is_unavailable(qemu_nbd):
    uri, process = qemu_nbd
    reader = client.connect(uri)
    process.kill()
    process.wait()
    with pytest.raises(client.NbdUnavailableError) as caught:
        reader.read(0, 512)
    assert caught.value.retryable
    with pytest.raises(client.NbdUnavailableError):
        client.connect(uri)
    reader.close()


def test_a_write_is_refused(serving):
    done = subprocess.run(
        ["qemu-io", "-f", "raw", "-c", "write 0 512", serving.uri], capture_output=True, text=True, check=False
    )

    assert done.returncode != 0


def greeted(path):
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(5)
    connection.connect(str(path))
    assert len(connection.recv(18)) == 18
    return connection


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\0" * 4 + b"x" * 100,
        p.CLIENT_FLAGS.pack(3) + p.OPTION.pack(p.IHAVEOPT, p.OPT_GO, 1 << 30),
        p.CLIENT_FLAGS.pack(3) + p.OPTION.pack(p.IHAVEOPT, p.OPT_SET_META_CONTEXT, 4) + b"\xff" * 4,
        p.CLIENT_FLAGS.pack(3) + p.OPTION.pack(p.IHAVEOPT, p.OPT_EXPORT_NAME, 0) + b"\0" * 28,
    ],
)
def test_a_hostile_client_ends_its_own_connection_alone(serving, disk, sent):
    connection = greeted(serving.path)
    connection.sendall(sent)
    connection.shutdown(socket.SHUT_WR)
    with contextlib.suppress(ConnectionResetError):
        while connection.recv(4096):
            pass
    connection.close()

    reader = client.connect(serving.uri)
    assert reader.read(0, 100) == disk.data[:100]
    reader.close()


@pytest.mark.parametrize(
    ("command", "offset", "length"),
    [
        (p.CMD_READ, 0, 0),
        (p.CMD_READ, 1 << 60, 512),
        (p.CMD_READ, 0, 33 * MiB),
        (p.CMD_BLOCK_STATUS, 0, 512),
        (9, 0, 512),
    ],
)
def test_a_request_out_of_bounds_gets_an_error(serving, command, offset, length):
    connection = greeted(serving.path)
    connection.sendall(p.CLIENT_FLAGS.pack(3) + p.OPTION.pack(p.IHAVEOPT, p.OPT_EXPORT_NAME, 0))
    assert len(connection.recv(10)) == 10
    connection.sendall(p.REQUEST_HEADER.pack(p.REQUEST, 0, command, 7, offset, length))
    magic, error, handle = struct.unpack(">IIQ", connection.recv(16))
    connection.close()

    assert (magic, handle) == (p.SIMPLE_REPLY, 7)
    assert error != 0


def test_closing_the_server_ends_clients_that_wait(disk, home):
    home.mkdir()
    release = threading.Event()
    disk.read = lambda offset, length: release.wait(10) and b"x" * length
    with server.NbdServer(disk, home / "nbd") as serving:
        reader = client.connect(serving.uri, connections=1)
        failures = []

        def read():
            try:
                reader.read(0, 512)
            except client.NbdUnavailableError as error:
                failures.append(error)

        waiting = threading.Thread(target=read)
        waiting.start()
        time.sleep(0.05)
        release.set()
    waiting.join(10)

    assert not waiting.is_alive()
    reader.close()
