"""Capture of domains on a private libvirt, running and stopped, judged by qemu-img and by what is left behind."""

import dataclasses
import os
import random
import signal
import subprocess
import sys
from uuid import UUID, uuid4

import libvirt
import libvirt_qemu
import pytest

from darkroom import capturing, creation, deleting, reading
from darkroom.capturing import CaptureRequest
from darkroom.catalog import Catalog, create_project, images, uploads
from darkroom.compute import atrest, backup, connection, domain, hosts, throwaway
from darkroom.compute.domain import Disk, Domain
from darkroom.errors import DarkroomError
from darkroom.model import CHUNK_SIZE, MiB
from tests import operations

SIZE = 24 * MiB


@pytest.fixture
def server(host, tmp_path, qemu_img):
    """Make a domain without a system: what its guest writes, `write` does. It is removed at the end."""
    made = []

    def make(formats=("qcow2", "qcow2"), start=True, content=None, name=None):
        disks = []
        for number, format in enumerate(formats):
            raw = tmp_path / f"{len(made)}-{number}.raw"
            raw.write_bytes(content or random.Random(number).randbytes(2 * MiB))
            os.truncate(raw, SIZE + number * MiB)
            path = raw
            if format != "raw":
                path = raw.with_suffix("." + format)
                qemu_img("convert", "-f", "raw", "-O", format, raw, path)
            disks.append(Disk(path, format, f"vd{'abc'[number]}"))
        made.append(Domain(uuid4(), name or f"web-{len(made)}", tuple(disks), "tcg", memory=32))
        host.defineXML(domain.xml(made[-1]))
        if start:
            domain.start(host, made[-1])
        return made[-1]

    yield make
    for each in made:
        domain.remove(host, each.uuid)


def write(host, server, target, offset, byte, length=64 * 1024):
    """As the guest would write to a disk."""
    device = f"virtio-disk{ord(target[-1]) - ord('a')}"
    command = f'qemu-io -d {device}/virtio-backend "write -P {byte} {offset} {length}"'
    found = domain.lookup(host, server.uuid)
    said = libvirt_qemu.qemuMonitorCommand(found, command, libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP)
    assert "error" not in said.lower(), said


def capture(to, server, name="golden", during=operations.quiet, until="", **fields):
    """The steps of a capture, as its flow takes them; `during` is called while the pass runs."""
    image = capturing.register(to, CaptureRequest(server=server.name, name=name, **fields))["image"]
    creation.create_data_key(to, image)
    try:
        capturing.take(to, image, during)
        if not until:
            creation.read_back(to, image, operations.quiet)
            creation.activate(to, image)
    finally:
        capturing.settle(to, image)
    return image


def content(to, image, number=0):
    with reading.open_disk(to, images.get(to.catalog, image), number) as reader:
        return reader.read(0, reader.size)


def told(to, image):
    return images.get(to.catalog, image)["properties"]["capture"]


def checkpoints(host, server):
    found = domain.lookup(host, server.uuid).listAllCheckpoints()
    return sorted(checkpoint.getName() for checkpoint in found)


def has_job(host, server):
    try:
        domain.lookup(host, server.uuid).backupGetXMLDesc()
        return True
    except libvirt.libvirtError:
        return False


def test_all_disks_of_a_running_server_are_as_they_were_at_one_instant(to, host, server, tmp_path):
    made = server()
    before = [(tmp_path / f"0-{number}.raw").read_bytes() for number in range(2)]
    wrote = []

    def during(done, total):
        if not wrote:
            wrote.append(True)
            write(host, made, "vda", 0, 65)
            write(host, made, "vdb", MiB, 66)

    image = capture(to, made, during=during, all_disks=True, key="gold")

    assert wrote
    assert [content(to, image, number) for number in range(2)] == before
    row = images.get(to.catalog, image)
    assert (row["type"], row["status"], row["operation"]) == ("full", "active", "capture")
    assert told(to, image)["consistency"] == "crash"
    assert not has_job(host, made)
    assert checkpoints(host, made) == [f"darkroom-{image}"]


def test_one_disk_is_captured_by_its_name(to, host, server, tmp_path):
    made = server()

    system, data = capture(to, made), capture(to, made, "data", disk="vdb")

    assert content(to, system) == (tmp_path / "0-0.raw").read_bytes()
    assert content(to, data) == (tmp_path / "0-1.raw").read_bytes()
    assert [images.get(to.catalog, image)["type"] for image in (system, data)] == ["system", "data"]
    with pytest.raises(capturing.DiskMissingError, match="vda, vdb"):
        capture(to, made, "other", disk="vdz")


def test_a_later_capture_reads_only_what_has_changed(to, host, server, monkeypatch):
    made = server(formats=("qcow2", "raw"))
    first = capture(to, made, all_disks=True)
    write(host, made, "vda", 5 * MiB, 65)
    write(host, made, "vdb", 7 * MiB, 66)
    read = []
    real = backup.Backup.open_disk

    def counting(self, target):
        reader = real(self, target)
        original = reader.read
        reader.read = lambda offset, length: read.append((target, offset, length)) or original(offset, length)
        return reader

    monkeypatch.setattr(backup.Backup, "open_disk", counting)
    second = capture(to, made, "later", all_disks=True, since="golden")

    expected = bytearray(content(to, first))
    expected[5 * MiB : 5 * MiB + 64 * 1024] = b"A" * 64 * 1024
    assert content(to, second) == expected
    assert content(to, second, 1)[7 * MiB : 7 * MiB + 3] == b"BBB"
    assert {(offset, length) for target, offset, length in read if target == "vda"} == {(5 * MiB, CHUNK_SIZE)}
    assert told(to, second)["changed_size"] == CHUNK_SIZE
    assert checkpoints(host, made) == sorted(f"darkroom-{image}" for image in (first, second))
    third = capture(to, made, "last", since="later")
    assert content(to, third) == expected
    assert checkpoints(host, made) == sorted(f"darkroom-{image}" for image in (second, third))


def test_a_broken_bitmap_means_that_all_is_read(to, host, server):
    made = server(formats=("qcow2",))
    first = capture(to, made)
    pid = int(_pid(made))
    os.kill(pid, signal.SIGKILL)
    assert domain.wait(lambda: not domain.is_running(host, made.uuid), 30)
    domain.start(host, made)
    write(host, made, "vda", MiB, 67)

    second = capture(to, made, "later", since="golden")

    assert "broken" in told(to, second)["note"]
    expected = bytearray(content(to, first))
    expected[MiB : MiB + 64 * 1024] = b"C" * 64 * 1024
    assert content(to, second) == expected


def test_a_stopped_server_is_read_where_it_has_changed_and_keeps_its_checkpoints(to, host, server):
    made = server()
    first = capture(to, made, all_disks=True)
    write(host, made, "vda", 5 * MiB, 65)
    second = capture(to, made, "later", all_disks=True, since="golden")
    write(host, made, "vda", 7 * MiB, 66)
    domain.stop(host, made.uuid)
    expected = bytearray(content(to, first))
    expected[5 * MiB : 5 * MiB + 64 * 1024] = b"A" * 64 * 1024
    expected[7 * MiB : 7 * MiB + 64 * 1024] = b"B" * 64 * 1024

    for name, since, chunks in (("one", "golden", 2), ("two", "later", 1)):
        image = capture(to, made, name, all_disks=True, since=since)
        assert (content(to, image), content(to, image, 1)) == (expected, content(to, first, 1))
        assert (told(to, image)["changed_size"], told(to, image)["note"]) == (chunks * CHUNK_SIZE, "")
    assert checkpoints(host, made) == sorted(f"darkroom-{image}" for image in (first, second))
    third = capture(to, made, "three", since="two")  # no checkpoint begins while it is stopped
    assert content(to, third) == expected
    assert told(to, third)["note"] == "no bitmap of what changed: all was read"
    domain.start(host, made)
    last = capture(to, made, "last", since="later")
    assert content(to, last) == expected
    assert checkpoints(host, made) == sorted(f"darkroom-{image}" for image in (second, last))


def test_a_broken_bitmap_of_a_stopped_server_means_that_all_is_read(to, host, server):
    made = server(formats=("qcow2",))
    first = capture(to, made)
    os.kill(int(_pid(made)), signal.SIGKILL)
    assert domain.wait(lambda: not domain.is_running(host, made.uuid), 30)

    second = capture(to, made, "later", since="golden")

    assert content(to, second) == content(to, first)
    assert told(to, second)["note"] == "no bitmap of what changed: all was read"


def _pid(made):
    found = subprocess.run(["pgrep", "-f", f"guest={made.name},"], capture_output=True, text=True, check=True)
    return found.stdout.split()[0]


def test_a_capture_since_that_of_another_server_is_refused(to, server):
    capture(to, server(formats=("qcow2",)))

    with pytest.raises(capturing.OtherServerError):
        capture(to, server(formats=("qcow2",)), "later", since="golden")


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_a_stopped_server_cannot_be_started_while_it_is_captured(to, host, server, tmp_path, format):
    made = server(formats=(format,), start=False)
    errors = []

    def during(done, total):
        if not errors:
            with pytest.raises(DarkroomError) as caught:
                domain.start(host, made)
            errors.append(str(caught.value))

    image = capture(to, made, during=during)

    assert "lock" in errors[0]
    assert content(to, image) == (tmp_path / "0-0.raw").read_bytes()
    domain.start(host, made)
    assert domain.is_running(host, made.uuid)


def test_a_stopped_server_over_a_backing_file_is_captured_while_it_runs_only(to, host, server, tmp_path, qemu_img):
    made = server(formats=("qcow2",), start=False)
    path = made.disks[0].path
    path.unlink()
    qemu_img("create", "-q", "-f", "qcow2", "-F", "raw", "-b", tmp_path / "0-0.raw", path)

    with pytest.raises(atrest.DiskKindError, match="external-reference"):
        capture(to, made)
    domain.start(host, made)
    image = capture(to, made)

    assert content(to, image) == (tmp_path / "0-0.raw").read_bytes()


@pytest.mark.parametrize("start", [True, False], ids=["running", "stopped"])
def test_a_raw_disk_that_looks_like_a_qcow2_is_taken_as_the_bytes_that_it_is(
    to, host, server, tmp_path, qemu_img, start
):
    secret = tmp_path / "secret"
    secret.write_bytes(b"of the host" * 1000)
    evil = tmp_path / "evil.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-F", "raw", "-b", secret, "-u", evil, "8M")
    made = server(formats=("raw",), start=start, content=evil.read_bytes())

    image = capture(to, made)

    taken = content(to, image)
    assert len(taken) == SIZE
    assert taken.startswith(evil.read_bytes())
    assert b"of the host" not in taken


CHILD = """
import os, sys, time
from darkroom.settings import Settings
from darkroom.systems import open_systems
from darkroom import packs
from darkroom.model import CHUNK_SIZE
from tests import test_capture
packs.TARGET_SIZE = CHUNK_SIZE
class Server: name = sys.argv[1]
def during(done, total):
    if done >= 2 * CHUNK_SIZE:
        print("reached", flush=True)
        time.sleep(60)
with open_systems(Settings()) as to:
    test_capture.capture(to, Server, during=during)
"""


def test_killed_in_the_middle_it_leaves_nothing_and_begins_at_a_new_instant(to, host, server, catalog_url):
    made = server(formats=("qcow2",))
    child = subprocess.Popen([sys.executable, "-c", CHILD, made.name], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"reached\n"
    assert has_job(host, made)
    child.kill()
    child.wait(20)
    child.stdout.close()
    storage = hosts.find(to.catalog).run

    assert domain.wait(lambda: not list(storage.glob("capture-*")), 20)
    assert not has_job(host, made)
    assert checkpoints(host, made) == []
    write(host, made, "vda", 0, 68)
    write(host, made, "vda", MiB, 69)
    image = capture(to, made)
    taken = content(to, image)
    assert (taken[:2], taken[MiB : MiB + 2]) == (b"DD", b"EE")
    assert operations.collector_plan(to, catalog_url).objects == {}


def test_a_capture_that_fails_leaves_nothing_on_the_host(to, host, server):
    made = server(formats=("qcow2",))

    def during(done, total):
        raise DarkroomError("stop")

    with pytest.raises(DarkroomError):
        capture(to, made, during=during)

    assert not has_job(host, made)
    assert checkpoints(host, made) == []


def test_a_server_with_another_job_is_busy(to, host, server):
    made = server(formats=("qcow2",))
    first = capturing.register(to, CaptureRequest(server=made.name, name="one"))["image"]
    creation.create_data_key(to, first)
    seen = []

    def during(done, total):
        if not seen:
            with pytest.raises(DarkroomError) as caught:
                capture(to, made, "two")
            seen.append(caught.value.code)

    capturing.take(to, first, during)
    capturing.settle(to, first)

    assert seen == ["domain-busy"]


def test_a_capture_that_is_cancelled_ends_and_leaves_nothing(to, host, server):
    made = server(formats=("qcow2",))

    def during(done, total):
        deleting.cancel(to, "golden")

    with pytest.raises(uploads.LeaseLostError):
        capture(to, made, during=during)

    assert not has_job(host, made)
    assert checkpoints(host, made) == []
    with pytest.raises(images.ImageMissingError):
        images.find(to.catalog, "golden")


def test_a_disk_that_another_job_works_on_is_busy(to, host, server, tmp_path):
    made = server(formats=("qcow2",))
    found = domain.lookup(host, made.uuid)
    target = f"<disk type='file'><source file='{tmp_path}/copy.qcow2'/><driver type='qcow2'/></disk>"
    flags = libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB
    found.blockCopy("vda", target, {"bandwidth": 1}, flags)

    with pytest.raises(connection.DomainBusyError):
        capture(to, made)
    found.blockJobAbort("vda", 0)


def test_the_capture_of_an_encrypted_server_is_encrypted(to, host, server, catalog_url):
    """A server of ours: its rows say which key its disks are under."""
    made = server(formats=("qcow2",), start=False)
    with Catalog(catalog_url, None) as operator, operator.transaction() as transaction:
        transaction.execute(
            """INSERT INTO servers (id, project_id, name, host, image_id, cpus, memory, boot_mode, network, request)
            SELECT %s, id, 'mine', 'kvm1', gen_random_uuid(), 1, 64, 'bios', '', '{}'
            FROM projects WHERE name = 'default'""",
            (made.uuid,),
        )
    with to.catalog.transaction() as transaction:
        transaction.execute(
            """INSERT INTO server_disks (host, server_id, target, size, image_id, image_disk, manifest_digest, key_name)
            VALUES ('kvm1', %s, 'vda', 1, gen_random_uuid(), 0, '', 'gold')""",
            (made.uuid,),
        )

    image = capturing.register(to, CaptureRequest(server="mine", name="golden"))["image"]

    assert images.get(to.catalog, image)["key_name"] == "gold"


def test_the_guests_of_other_projects_are_not_there(to, host, server, catalog_url):
    made = server(formats=("qcow2",), start=False)
    with Catalog(catalog_url, None) as operator, operator.transaction() as transaction:
        create_project(transaction, "stranger")
        transaction.execute(
            """INSERT INTO servers (id, project_id, name, host, image_id, cpus, memory, boot_mode, network, request)
            SELECT %s, id, 'theirs', 'kvm1', gen_random_uuid(), 1, 64, 'bios', '', '{}'
            FROM projects WHERE name = 'stranger'""",
            (made.uuid,),
        )

    passing = server(formats=("qcow2",), start=False, name=f"{throwaway.PREFIX}1")

    for reference in (made.name, str(made.uuid), "theirs", passing.name, str(passing.uuid)):
        with pytest.raises(connection.DomainMissingError):
            capturing.register(to, CaptureRequest(server=reference, name="golden"))


def test_the_operator_says_who_may_capture_what_darkroom_did_not_make(to, host, server, catalog_url):
    made = server(formats=("qcow2",), start=False)
    with Catalog(catalog_url, None) as operator:
        hosts.add(operator, dataclasses.replace(hosts.find(operator), open_to=()))

    told = set()
    for reference in (made.name, str(made.uuid), "nothing"):
        with pytest.raises(connection.DomainMissingError, match=r"kvm1.*--open-to default") as caught:
            capturing.register(to, CaptureRequest(server=reference, name="golden"))
        told.add(str(caught.value).replace(reference, ""))

    assert len(told) == 1  # not even that there is one


@pytest.mark.parametrize("open_to", [(), ("default",)])
def test_a_row_that_names_another_domain_captures_nothing(to, host, server, catalog_url, open_to):
    """Whoever acts as a project by SQL can write what a capture of its own was begun with."""
    made, theirs = server(formats=("qcow2",)), server(formats=("qcow2",))
    image = capturing.register(to, CaptureRequest(server=made.name, name="golden"))["image"]
    with Catalog(catalog_url, None) as operator, operator.transaction() as transaction:
        create_project(transaction, "stranger")
        if open_to:
            transaction.execute(
                """INSERT INTO servers (id, project_id, name, host, image_id, cpus, memory, boot_mode, network, request)
                SELECT %s, id, 'theirs', 'kvm1', gen_random_uuid(), 1, 64, 'bios', '', '{}'
                FROM projects WHERE name = 'stranger'""",
                (theirs.uuid,),
            )
    with Catalog(catalog_url, None) as operator:
        hosts.add(operator, dataclasses.replace(hosts.find(operator), open_to=open_to))
    with to.catalog.transaction() as transaction:
        properties = images.get(to.catalog, image)["properties"]
        plan = {**properties["capture"], "domain": str(theirs.uuid)}
        images.update(transaction, UUID(image), properties={**properties, "capture": plan})

    creation.create_data_key(to, image)
    with pytest.raises(connection.DomainMissingError):
        capturing.take(to, image, operations.quiet)
    capturing.settle(to, image)
