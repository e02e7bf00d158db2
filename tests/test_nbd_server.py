"""The NBD server, judged by nbdinfo, nbdcopy and qemu-img."""

import json
import stat
import subprocess
import threading

import pytest

from darkroom.errors import DamagedError
from darkroom.model import CHUNK_SIZE, KiB, MiB
from darkroom.nbd import client, negotiation, server
from darkroom.nbd import protocol as p
from tests import nbd_clients
from tests.nbd_clients import Client
from tests.strategies import BytesReader

END = [("hole", 511), ("data", 1)]
DISK = [("data", 3 * KiB), ("hole", CHUNK_SIZE), ("same", 513), ("zero", 4096), ("data", MiB), *END]
EXPORT = p.U32.pack(0) + p.U16.pack(0)
ALLOCATION = p.U32.pack(len(negotiation.META_CONTEXT)) + negotiation.META_CONTEXT


@pytest.fixture
def folder(home):
    home.mkdir()
    return home


@pytest.fixture
def serving(folder):
    with nbd_clients.servers(folder) as serve:
        yield serve


def test_nbdinfo_sees_a_read_only_export_for_many_connections(serving):
    one = serving(DISK)
    done = subprocess.run(["nbdinfo", "--json", one.uri], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    export = found["exports"][0]

    assert (found["protocol"], found["structured"]) == ("newstyle-fixed", True)
    assert (export["export-size"], export["is_read_only"], export["can_multi_conn"]) == (one.reader.size, True, True)
    assert export["contexts"] == ["base:allocation"]
    assert subprocess.run(["nbdinfo", "--list", one.uri], capture_output=True, check=True).stdout


def test_nbdinfo_maps_the_extents_exactly(serving):
    parts = [("data", 3 * KiB), ("hole", CHUNK_SIZE), ("same", 512), ("zero", 4096), ("data", MiB), ("hole", 100)]
    done = subprocess.run(
        ["nbdinfo", "--json", "--map", serving(parts).uri], capture_output=True, text=True, check=True
    )
    found = [(entry["offset"], entry["length"], entry["type"]) for entry in json.loads(done.stdout)]

    start, end = CHUNK_SIZE + 3 * KiB, CHUNK_SIZE + 3 * KiB + 512 + 4096 + MiB
    assert found == [(0, 3 * KiB, 0), (3 * KiB, CHUNK_SIZE, 3), (start, end - start, 0), (end, 100, 3)]


@pytest.mark.parametrize("hole", [100, 512, 513, 4194048, 4194304 - 1])
def test_qemu_img_loses_no_byte_where_a_hole_ends_within_a_sector(serving, folder, qemu_img, hole):
    one = serving([("data", 512), ("hole", hole), ("same", 3 * MiB - 7), ("hole", MiB + 1), ("same", 700)])
    qemu_img("convert", "-f", "raw", "-O", "raw", one.uri, folder / "out")

    assert (folder / "out").read_bytes()[: one.reader.size] == one.reader.data


@pytest.mark.parametrize("size", [1, 511, 512, 513, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, 33 * MiB + 1])
def test_nbdcopy_gets_every_byte_of_disks_of_any_length(serving, folder, size):
    one = serving([("data", size // 2), ("hole", size // 4), ("same", size - size // 2 - size // 4)])
    subprocess.run(["nbdcopy", one.uri, folder / "out"], check=True)

    assert (folder / "out").read_bytes() == one.reader.data
    assert one.errors == []


def test_an_empty_disk_is_served(serving):
    assert subprocess.run(["nbdinfo", "--size", serving([]).uri], capture_output=True, check=True).stdout == b"0\n"


def test_qemu_img_finds_it_identical_to_the_file(serving, folder, qemu_img):
    one = serving([("data", MiB), ("hole", 5 * MiB), ("data", 2 * MiB), ("zero", MiB)])
    (folder / "disk").write_bytes(one.reader.data)

    assert "identical" in qemu_img("compare", "-f", "raw", "-F", "raw", folder / "disk", one.uri)


def test_the_socket_is_its_owners_alone(serving):
    assert stat.S_IMODE(serving(DISK).path.stat().st_mode) == 0o600


def test_a_client_of_the_oldest_kind_gets_the_same_bytes(serving):
    one = serving(DISK)
    old = Client(one.path).greet(flags=0)
    old.socket.sendall(p.OPTION.pack(p.IHAVEOPT, p.OPT_EXPORT_NAME, 0))
    size, flags = p.EXPORT_NAME_INFO.unpack(p.receive(old.socket, p.EXPORT_NAME_INFO.size))
    assert p.receive(old.socket, 124) == bytes(124)
    old.ask(p.CMD_READ, 100, 600_000)

    assert (size, flags & p.READ_ONLY) == (one.reader.size, p.READ_ONLY)
    assert old.answer(600_000) == (7, 0, one.reader.data[100:600_100])
    old.ask(p.CMD_DISC, 0, 0)
    assert old.has_ended()


@pytest.mark.parametrize(
    ("option", "data", "kinds"),
    [
        (p.OPT_GO, p.U32.pack(3) + b"abc" + p.U16.pack(0), [p.REP_ERR_UNKNOWN]),
        (p.OPT_INFO, p.U32.pack(9) + b"short", [p.REP_ERR_INVALID]),
        (p.OPT_INFO, b"", [p.REP_ERR_INVALID]),
        (p.OPT_INFO, EXPORT, [p.REP_INFO, p.REP_INFO, p.REP_ACK]),
        (5, b"", [p.REP_ERR_UNSUP]),
        (99, b"anything", [p.REP_ERR_UNSUP]),
        (p.OPT_LIST, b"", [p.REP_SERVER, p.REP_ACK]),
        (p.OPT_SET_META_CONTEXT, p.U32.pack(0) + p.U32.pack(1) + ALLOCATION, [p.REP_ERR_INVALID]),
        (p.OPT_SET_META_CONTEXT, p.U32.pack(0) + p.U32.pack(1 << 31), [p.REP_ERR_INVALID]),
        (p.OPT_ABORT, b"", [p.REP_ACK]),
    ],
)
def test_options_are_answered_as_the_protocol_says(serving, option, data, kinds):
    one = Client(serving(DISK).path).greet()

    assert [kind for kind, _ in one.option(option, data)] == kinds
    one.socket.close()


def test_a_meta_context_is_chosen_by_its_name_after_structured_replies(serving):
    one = Client(serving(DISK).path).greet()
    assert one.option(p.OPT_STRUCTURED_REPLY) == [(p.REP_ACK, b"")]
    none, other = p.U32.pack(0) + p.U32.pack(0), p.U32.pack(0) + p.U32.pack(1) + p.U32.pack(3) + b"x:y"
    chosen = (p.REP_META_CONTEXT, p.U32.pack(1) + b"base:allocation")

    assert one.option(p.OPT_LIST_META_CONTEXT, none) == [chosen, (p.REP_ACK, b"")]
    for queries in (none, other):
        assert one.option(p.OPT_SET_META_CONTEXT, queries) == [(p.REP_ACK, b"")]
    both = p.U32.pack(0) + p.U32.pack(2) + p.U32.pack(3) + b"x:y" + ALLOCATION
    assert one.option(p.OPT_SET_META_CONTEXT, both) == [chosen, (p.REP_ACK, b"")]
    one.socket.close()


def test_one_connection_has_several_requests_in_flight(serving):
    together = threading.Barrier(4, timeout=20)

    class Waiting(BytesReader):
        def read(self, offset, length):
            together.wait()
            return super().read(offset, length)

    one = serving(reader=Waiting(DISK))
    asking = Client(one.path).begin()
    for number in range(4):
        asking.ask(p.CMD_READ, number * 512, 512, handle=number)
    found = {handle: data for handle, _, data in (asking.answer(512) for _ in range(4))}

    assert found == {number: one.reader.data[number * 512 : number * 512 + 512] for number in range(4)}
    asking.socket.close()


def test_what_the_reader_raises_is_an_io_error_for_the_client_and_kept_for_the_owner(serving):
    class Damaged(BytesReader):
        def read(self, offset, length):
            if offset >= MiB:
                raise DamagedError("chunk 2", "a digest", "another")
            return super().read(offset, length)

        def extents(self, offset, length):
            raise DamagedError("page 0")

    one = serving(reader=Damaged([("data", 2 * MiB)]))
    found = client.connect(one.uri)
    assert found.read(0, 512) == one.reader.data[:512]
    for _ in range(40):
        with pytest.raises(client.NbdUnavailableError, match="Input/output error"):
            found.read(MiB, 512)
    assert str(one.errors[0]).startswith("damaged: chunk 2")
    assert len(one.errors) == 16
    with pytest.raises(client.NbdUnavailableError):
        found.extents(0, MiB)
    assert found.read(512, 512) == one.reader.data[512:1024]
    found.close()


def test_a_name_that_a_socket_cannot_have_leaves_nothing_open(folder):
    with pytest.raises(OSError, match="too long"):
        server.NbdServer(BytesReader(DISK), folder / ("x" * 120)).__enter__()
