"""Several workers on one pool share a migration, through the death of one of them and of the Prefect server."""

import collections
import csv
import shutil
import sqlite3

import pytest

from benchmarks import sources
from benchmarks.pool import Pool, wait_for
from darkroom.catalog import batches

MIB = 1 << 20
IMAGES = 60


@pytest.fixture
def pool(to, prefect_folder, home):
    """Three workers of a server of their own, which knows what the shared one does: its first start takes long."""
    folder = home / "prefect"
    folder.mkdir(parents=True)
    with sqlite3.connect(prefect_folder / "prefect.db") as made, sqlite3.connect(folder / "prefect.db") as copy:
        made.backup(copy)
    pool = Pool(folder)
    pool.start_workers(3)
    yield pool
    pool.close()


def rows(to) -> dict[str, int]:
    with to.catalog.transaction() as connection:
        found = connection.execute("SELECT id::text FROM batches").fetchone()
    return batches.counts(to.catalog, found["id"]) if found else {"done": 0, "failed": 0}


def holders(to) -> int:
    with to.catalog.transaction() as connection:
        query = "SELECT count(DISTINCT holder) AS n FROM batch_rows WHERE status = 'running'"
        return connection.execute(query).fetchone()["n"]


@pytest.mark.timeout(400)
def test_sixty_images_by_three_workers_one_killed_and_the_server_restarted(to, pool, tmp_path):
    table, report = (
        sources.make(tmp_path / "sources", IMAGES, size=24 * MIB, own=16 * MIB, broken_every=10),
        tmp_path / "o.csv",
    )
    pool.run("migrate-images", source=str(table), report=str(report), workers=3, concurrency=1)
    wait_for(lambda: holders(to) == 3, 200)
    pool.kill(max(pool.workers, key=lambda worker: len(pool.runs_of(worker))))
    before = rows(to)["done"]
    pool.restart_server()
    wait_for(lambda: rows(to)["done"] + rows(to)["failed"] == IMAGES, 200)

    assert before < IMAGES - IMAGES // 10, "the kill came too late to prove anything"
    with to.catalog.transaction() as connection:
        images = connection.execute("SELECT name, status FROM images").fetchall()
    active = collections.Counter(image["name"] for image in images if image["status"] == "active")
    expected = {f"disk-{number:05}" for number in range(IMAGES) if number % 10 != 9}
    assert active == dict.fromkeys(expected, 1)
    assert {image["status"] for image in images} == {"active", "killed"}

    def whole() -> bool:
        return report.exists() and {line["status"] for line in lines()} == {"done", "failed"}

    def lines() -> list[dict[str, str]]:
        with open(report, newline="") as file:
            return list(csv.DictReader(file))

    wait_for(whole, 60)
    assert len(lines()) == IMAGES
    assert [line["code"] for line in lines() if line["code"]] == [code for _, code in sources.WAYS[:6]]
    shutil.rmtree(tmp_path / "sources")
