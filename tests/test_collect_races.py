"""Collections beside two imports that deduplicate against packs which the collector wants, many times over."""

import dataclasses
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from uuid import UUID

import pytest

from darkroom import check, collect, creation, deleting, packs, upload
from darkroom.catalog import images
from darkroom.model import CHUNK_SIZE, Extent
from darkroom.settings import Settings
from darkroom.systems import open_systems
from tests import operations

_ROUNDS = 200
_CHUNKS = 40
_ALIVE = 8
_WORDS = {number: random.Random(number).randbytes(2000) for number in range(1, _CHUNKS + 1)}


class Disk:
    """A disk in memory whose chunks are those of these numbers, 0 for zeros."""

    def __init__(self, numbers):
        self.numbers = numbers
        self.size = len(numbers) * CHUNK_SIZE

    def read(self, offset, length):
        first, last = offset // CHUNK_SIZE, (offset + length) // CHUNK_SIZE
        return b"".join(self._chunk(number) for number in self.numbers[first:last])

    def _chunk(self, number):
        return _WORDS.get(number, b"").ljust(CHUNK_SIZE, b"\0")

    def extents(self, offset, length):
        return [Extent(offset, length, False)]

    def close(self):
        pass


def bring(to, name, numbers, key):
    """Import a disk in memory; the image's id."""
    wanted = {
        "operation": "import",
        "name": name,
        "type": "data",
        "request": {"name": name},
        "source": "memory",
        "key_name": key or None,
    }
    image = creation.register(to, wanted, {})["image"]
    with creation.step(to, image) as row, to.catalog.transaction() as connection:
        creation.add_disks(connection, row["id"], [len(numbers) * CHUNK_SIZE])
    creation.create_data_key(to, image)

    @contextmanager
    def open_disk(_):
        yield Disk(numbers)

    with creation.step(to, image) as row:
        creation.upload_disks(to, row, open_disk, operations.quiet)
    creation.activate(to, image)
    return image


def remove(to, image, numbers):
    """Read an image, beside whatever is collected meanwhile, and purge it."""
    assert operations.content(to, image) == content_of(numbers)
    deleting.delete(to, image)
    deleting.purge(to, image)


def content_of(numbers):
    return Disk(numbers).read(0, len(numbers) * CHUNK_SIZE)


def choose(random, alive):
    """A new disk: some of another image's chunks, since those are in packs that may be going, and some others."""
    of_another = random.choice(list(alive.values()))[0] if alive else []
    numbers = random.sample(of_another, min(len(of_another), random.randrange(6)))
    return numbers + [random.randrange(_CHUNKS + 1) for _ in range(random.randrange(1, 8))]


@pytest.fixture
def workers(to):
    """Systems of two importers, and of the operator, each with connections of its own."""
    with ExitStack() as stack:
        yield [stack.enter_context(open_systems(Settings(), operator=operator)) for operator in (False, False, True)]


def test_two_hundred_rounds_of_collections_beside_imports_and_purges(to, workers, monkeypatch):
    monkeypatch.setattr(packs, "TARGET_SIZE", 4 * 2000)
    monkeypatch.setattr(upload, "_BATCH", 2)
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    source = random.Random(seed)
    alive, totals = {}, {"packs": 0, "objects": 0, "compacted": 0}
    with ThreadPoolExecutor(4) as pool:
        for number in range(_ROUNDS):
            gone = source.sample(sorted(alive), max(0, len(alive) - _ALIVE) + source.randrange(2)) if alive else []
            new = [(f"r{number}-{worker}", choose(source, alive), source.choice(("", "gold"))) for worker in range(2)]
            purges = [pool.submit(remove, to, image, *alive[image]) for image in gone]
            imports = [pool.submit(bring, workers[w], *wanted) for w, wanted in enumerate(new)]
            while not all(future.done() for future in [*imports, *purges]):
                result = collect.collect(workers[2])
                for name in totals:
                    totals[name] += result[name]
            for future in purges:
                future.result()
            for image in gone:
                del alive[image]
            for future, (_, numbers, _key) in zip(imports, new, strict=True):
                alive[future.result()] = (numbers,)
    assert totals["packs"] > 20
    assert totals["compacted"] > 20
    assert_tidy(to, workers[2], alive)


def assert_tidy(to, operator, alive):
    """Every image is well and has its own bytes, and nothing unreferenced is left."""
    collect.collect(operator)
    for image, (numbers,) in alive.items():
        assert operations.content(to, image) == content_of(numbers)
        assert check.check_image(to, images.get(to.catalog, image), operations.quiet)["findings"] == []
    plan = collect.plan(operator.catalog, operator.store)
    assert dataclasses.astuple(plan) == ({}, {}, [], [], {})
    with operator.catalog.transaction() as connection:
        rows = connection.execute("SELECT uuid FROM packs").fetchall()
        index = connection.execute("SELECT count(*) AS n FROM chunks WHERE pack_id NOT IN (SELECT pack_id FROM refs)")
        assert index.fetchone()["n"] == 0
    assert {UUID(key[-36:]) for key in operations.objects(to) if "/packs/" in key} == {row["uuid"] for row in rows}
