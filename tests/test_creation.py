"""Images of several disks, from an origin that is not a file."""

import random
from contextlib import contextmanager

import pytest

from darkroom import check, content, creation, reading, reap
from darkroom.catalog import images, uploads
from darkroom.errors import RefusedError
from darkroom.model import CHUNK_SIZE, Extent, MiB
from tests import operations

DISKS = [random.Random(1).randbytes(3 * MiB) + bytes(2 * MiB), bytes(100) + random.Random(2).randbytes(CHUNK_SIZE + 7)]


class Memory:
    """A Reader of bytes in memory."""

    def __init__(self, data):
        self.data, self.size = data, len(data)

    def read(self, offset, length):
        return self.data[offset : offset + length]

    def extents(self, offset, length):
        return [Extent(offset, length, False)]

    def close(self):
        pass


@contextmanager
def open_memory(data):
    yield Memory(data)


def create(to, disks, name="server", key="gold", until="activate", open_disk=None):
    """A full-server image of disks in memory, up to and with the step `until`."""
    wanted = {"operation": "capture", "request": {"name": name}, "source": "memory", "name": name, "type": "full"}
    image = creation.register(to, {**wanted, "key_name": key}, {})["image"]
    creation.create_data_key(to, image)
    with creation.step(to, image) as row:
        with to.catalog.transaction() as connection:
            creation.add_disks(connection, row["id"], [len(disk) for disk in disks])
        if until == "register":
            return image
        opened = open_disk or (lambda number: open_memory(disks[number]))
        creation.upload_disks(to, images.get(to.catalog, image), opened, operations.quiet)
    if until == "activate":
        creation.read_back(to, image, operations.quiet)
        creation.activate(to, image)
    return image


def read(to, image):
    row = images.get(to.catalog, image)
    for disk in images.disks(to.catalog, row["id"]):
        with reading.open_disk(to, row, disk["number"]) as reader:
            yield reader.read(0, reader.size)


def test_an_image_of_two_disks_reads_back_and_is_well(to):
    image = create(to, DISKS)

    row = images.get(to.catalog, image)
    assert list(read(to, image)) == DISKS
    assert row["virtual_size"] == sum(map(len, DISKS))
    assert check.check_image(to, row, operations.quiet)["findings"] == []


def test_the_content_digest_is_that_of_the_disks_in_order(to):
    wanted = {"a": (DISKS, "gold"), "b": (DISKS, None), "c": (DISKS[::-1], None), "d": (DISKS[:1], None)}
    rows = [images.get(to.catalog, create(to, disks, name, key)) for name, (disks, key) in wanted.items()]
    one = operations.import_image(to, _file(to, DISKS[0]))

    digests = [bytes(row["content_digest"]) for row in rows]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    assert digests[3] == bytes(images.get(to.catalog, one)["content_digest"])
    assert content.digest_of_disks([b"x" * 32]) == b"x" * 32


def _file(to, data):
    path = to.settings.home / "disk.raw"
    path.write_bytes(data)
    return path


def test_damage_of_the_second_disk_is_found(to):
    image = create(to, DISKS)
    path = to.settings.home / "store" / f"images/{image}/disk-1"
    path.write_bytes(path.read_bytes()[:-1] + b"x")

    found = check.check_image(to, images.get(to.catalog, image), operations.quiet)

    assert [finding["code"] for finding in found["findings"]] == ["manifest-invalid"]


def test_an_upload_that_broke_off_in_the_second_disk_goes_on_there(to):
    read_again = []

    def breaking(number):
        if number == 1:
            raise RefusedError("disk 1")
        return open_memory(DISKS[number])

    @contextmanager
    def counting(number):
        reader = Memory(DISKS[number])
        reader.read = lambda offset, length: read_again.append(number) or DISKS[number][offset : offset + length]
        yield reader

    with pytest.raises(RefusedError):
        create(to, DISKS, open_disk=breaking)
    image = create(to, DISKS, open_disk=counting)

    assert set(read_again) == {1}
    assert list(read(to, image)) == DISKS


@pytest.mark.parametrize("how", ["fail", "reap"])
def test_an_unfinished_image_leaves_no_manifest(to, catalog_url, how):
    image = create(to, DISKS, until="upload")
    assert sum("/disk-" in key for key in operations.objects(to)) == 2
    if how == "fail":
        creation.fail(to, image, RefusedError("x"))
    else:
        with to.catalog.transaction() as connection:
            connection.execute("UPDATE leases SET reap_at = now() - interval '1 s'")
        assert reap.reap(to)["images"] == [image]

    assert not any("/disk-" in key for key in operations.objects(to))
    assert operations.collector_plan(to, catalog_url).objects == {}
    with to.catalog.transaction() as connection:
        rows = connection.execute("SELECT operation, outcome FROM events ORDER BY id").fetchall()
    assert [tuple(row.values()) for row in rows] == [("capture", "started"), ("capture", "failed")]


def test_the_same_request_of_another_operation_is_another_image(to):
    image = create(to, DISKS, until="register")
    wanted = {"operation": "import", "request": {"name": "server"}, "source": "x", "name": "server", "type": "data"}

    found = creation.register(to, {**wanted, "key_name": None}, {})

    assert found["image"] != image
    assert images.get(to.catalog, image)["failure"]["code"] == "superseded"
    assert uploads.finished_runs(to.catalog, image, 0) == []
