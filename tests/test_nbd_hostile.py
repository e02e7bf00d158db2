"""Clients of the NBD server that mean harm: what they may cost is bounded, and they hurt nobody else."""

import random
import select
import socket
import struct
import threading

import pytest

from darkroom.model import CHUNK_SIZE, KiB, MiB
from darkroom.nbd import protocol as p
from darkroom.nbd import server
from tests import nbd_clients
from tests.nbd_clients import Client
from tests.strategies import BytesReader

END = [("hole", 511), ("data", 1)]
DISK = [("data", 3 * KiB), ("hole", CHUNK_SIZE), ("same", 513), ("zero", 4096), ("data", MiB), *END]


@pytest.fixture
def folder(home):
    home.mkdir()
    return home


@pytest.fixture
def serving(folder):
    with nbd_clients.servers(folder) as serve:
        yield serve


@pytest.mark.parametrize(
    ("command", "offset", "length", "error"),
    [
        (p.CMD_READ, 0, 0, p.EINVAL),
        (p.CMD_READ, MiB, 1, p.EINVAL),
        (p.CMD_READ, MiB - 1, 2, p.EINVAL),
        (p.CMD_READ, (1 << 64) - 1, 1, p.EINVAL),
        (p.CMD_READ, 0, (1 << 32) - 1, p.EINVAL),
        (p.CMD_BLOCK_STATUS, 0, 1, p.EINVAL),
        (4, 0, 4096, p.EPERM),
        (6, 0, 4096, p.EPERM),
        (0xFFFF, 0, 4096, p.EPERM),
    ],
)
def test_requests_that_make_no_sense_are_refused_and_the_next_is_answered(serving, command, offset, length, error):
    one = serving([("data", MiB)])
    asking = Client(one.path).begin()
    asking.ask(command, offset, length)

    assert asking.answer() == (7, error, b"")
    asking.ask(p.CMD_READ, MiB - 1, 1, handle=8)
    assert asking.answer(1) == (8, 0, one.reader.data[-1:])
    assert one.errors == []
    asking.socket.close()


def test_a_read_of_more_than_32_mib_is_refused(serving):
    asking = Client(serving([("hole", 40 * MiB)]).path).begin()
    asking.ask(p.CMD_READ, 0, 32 * MiB + 1)
    assert asking.answer() == (7, p.EINVAL, b"")
    asking.ask(p.CMD_READ, 0, 32 * MiB)

    assert asking.answer(32 * MiB) == (7, 0, bytes(32 * MiB))
    asking.socket.close()


def test_a_write_is_refused_and_its_data_skipped(serving):
    one = serving(DISK)
    before = one.reader.data
    asking = Client(one.path).begin()
    asking.ask(p.CMD_WRITE, 0, 4096, data=p.REQUEST_HEADER.pack(p.REQUEST, 0, 0, 9, 0, 1) * 146 + bytes(8))

    assert asking.answer() == (7, p.EPERM, b"")
    asking.ask(p.CMD_READ, 0, 512, handle=8)
    assert asking.answer(512) == (8, 0, before[:512])
    asking.ask(p.CMD_WRITE, 0, (1 << 32) - 1)
    assert asking.has_ended()


def test_random_bytes_hurt_nobody_else(serving):
    one = serving(DISK)
    source = random.Random(4)
    starts = [
        lambda: Client(one.path),
        lambda: Client(one.path).greet(flags=source.getrandbits(32)),
        lambda: Client(one.path).begin(),
    ]
    headers = [
        lambda: b"",
        lambda: p.OPTION.pack(p.IHAVEOPT, source.randrange(12), source.choice([0, 1, 8192, 8193, 1 << 31])),
        lambda: p.REQUEST_HEADER.pack(p.REQUEST, *(source.getrandbits(n) for n in (16, 3, 64, 21, 32))),
    ]
    for number in range(300):
        hostile = starts[number % 3]()
        try:
            hostile.socket.sendall(source.choice(headers)() + source.randbytes(source.randrange(200)))
            hostile.socket.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert hostile.has_ended()

    assert nbd_clients.still_serves(one)
    assert one.errors == []


def test_an_option_too_long_or_without_end_closes_the_connection(serving):
    one = serving(DISK)
    long = Client(one.path).greet()
    long.socket.sendall(p.OPTION.pack(p.IHAVEOPT, p.OPT_LIST, 1 << 31))
    assert long.has_ended()
    endless = Client(one.path).greet()
    for _ in range(64):
        endless.option(p.OPT_LIST)
    assert endless.has_ended()
    assert nbd_clients.still_serves(one)


def test_a_client_that_says_nothing_is_given_up(serving, monkeypatch):
    monkeypatch.setattr(server, "_HANDSHAKE", 0.1)

    assert Client(serving(DISK).path).greet().has_ended()


def test_a_client_that_takes_nothing_is_given_up_and_holds_up_nobody(serving, monkeypatch):
    monkeypatch.setattr(server, "_STALLED", 1)
    one = serving([("data", 16 * MiB)])
    greedy = Client(one.path).begin()
    for number in range(16):
        greedy.ask(p.CMD_READ, 0, 16 * MiB, handle=number)
    assert nbd_clients.still_serves(one)

    waiting = select.poll()
    waiting.register(greedy.socket, select.POLLHUP)
    assert waiting.poll(20_000)
    greedy.socket.close()


def test_one_connection_too_many_is_closed_and_those_before_go_on(serving, monkeypatch):
    monkeypatch.setattr(server, "_CONNECTIONS", 2)
    one = serving(DISK)
    first, second = Client(one.path).begin(), Client(one.path).begin()
    assert Client(one.path).has_ended()

    for asking in (first, second):
        asking.ask(p.CMD_READ, 0, 1)
        assert asking.answer(1) == (7, 0, one.reader.data[:1])
        asking.socket.close()


def test_a_server_that_closes_ends_its_clients_even_with_requests_waiting(folder):
    entered, released = threading.Event(), threading.Event()

    class Slow(BytesReader):
        def read(self, offset, length):
            entered.set()
            assert released.wait(20)
            return super().read(offset, length)

    asking = None
    with server.NbdServer(Slow([("data", MiB)]), folder / "s") as one:
        asking = Client(one.path).begin()
        asking.socket.sendall(b"".join(p.REQUEST_HEADER.pack(p.REQUEST, 0, 0, n, 0, MiB) for n in range(100)))
        idle = Client(one.path).begin()
        assert entered.wait(20)
        threading.Timer(0.05, released.set).start()

    assert asking.has_ended()
    assert idle.has_ended()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("nbd")]


def test_a_request_cut_off_in_the_middle_ends_its_connection_alone(serving):
    one = serving(DISK)
    cut = Client(one.path).begin()
    cut.socket.sendall(struct.pack(">I", p.REQUEST))
    cut.socket.shutdown(socket.SHUT_WR)
    assert cut.has_ended()
    assert nbd_clients.still_serves(one)
