"""Workers of one pool: a migration that they share, runs whose process dies, limits of how many run at once."""

import collections
import csv
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import contextmanager

import psycopg
import pytest

from benchmarks import sources
from benchmarks.pool import ROOT, Pool, descendants, wait_for
from darkroom.catalog import batches
from deployments import automation
from tasks.dying import DIED
from tests import operations

MIB = 1 << 20
IMAGES = 60
AUTOMATIONS = [made.name for made in automation.automations()]
QUERY = 1.0
"""Seconds between two looks of a worker for runs."""
HOLD = """
    CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
        $$ BEGIN PERFORM pg_sleep(600); RETURN NEW; END $$;
    CREATE TRIGGER hold BEFORE INSERT ON runs FOR EACH ROW WHEN (NEW.first_chunk > 0) EXECUTE FUNCTION hold()"""
RELEASE = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep';
    DROP TRIGGER hold ON runs;
    DROP FUNCTION hold"""
DEADLY = """
import os, signal, sys
def dies(event, arguments):
    if event == "os.mkdir" and "/spool/" in os.fspath(arguments[0]):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(dies)
"""
"""As `sitecustomize` on the path of a worker: the process of an import dies as soon as it takes its spool."""


@pytest.fixture(scope="module")
def pool(shared_to, prefect_folder, tmp_path_factory):
    """A pool on a server of its own, which knows what the shared one does: its first start takes long. No workers."""
    folder = tmp_path_factory.mktemp("pool") / "prefect"
    folder.mkdir()
    with sqlite3.connect(prefect_folder / "prefect.db") as made, sqlite3.connect(folder / "prefect.db") as copy:
        made.backup(copy)
    settings = shared_to.settings
    found = Pool(folder, {"DARKROOM_HOME": str(settings.home), "DARKROOM_CATALOG_URL": settings.catalog_url})
    yield found
    found.close()


@pytest.fixture
def workers(pool):
    """Starts workers, which end with the test."""
    yield pool.start_workers
    for worker in list(pool.workers):
        pool.kill(worker)


@pytest.fixture
def operator(shared_to):
    with psycopg.connect(shared_to.settings.catalog_url, autocommit=True) as connection:
        connection.execute("SET search_path = darkroom")
        yield connection


@contextmanager
def silence_shortened(pool, seconds):
    """Have the automations wait for so long in the block for a run that has begun; the UI can change it so, too."""
    found = pool.ask("/automations/filter", {"automations": {"name": {"any_": AUTOMATIONS}}})
    assert len(found) == len(AUTOMATIONS)

    def change(change):
        for one in found:
            core = {name: one[name] for name in ("name", "enabled", "trigger", "actions")}
            pool.ask(f"/automations/{one['id']}", {**core, "trigger": change(one["trigger"])}, method="PUT")

    def shorter(trigger):
        if "triggers" in trigger:
            return {**trigger, "triggers": [shorter(part) for part in trigger["triggers"]]}
        return trigger if "prefect.flow-run.Pending" in trigger["after"] else {**trigger, "within": seconds}

    change(shorter)
    try:
        yield
    finally:
        change(lambda trigger: trigger)


def is_in(pool, run, *types):
    return lambda: pool.state(run)["type"] in types


def names_of(pool, run):
    return [state["name"] for state in pool.states(run)]


def the_image(to, name):
    with to.catalog.transaction() as connection:
        return connection.execute("SELECT * FROM images WHERE name = %s", (name,)).fetchone()


def packs(operator, name):
    query = """SELECT p.uuid FROM packs p JOIN refs r ON r.pack_id = p.id JOIN images i ON i.id = r.image_id
        WHERE p.status = 'stored' AND i.name = %s"""
    return {uuid for (uuid,) in operator.execute(query, (name,))}


def rows(to) -> dict[str, int]:
    with to.catalog.transaction() as connection:
        found = connection.execute("SELECT id::text FROM batches").fetchone()
    return batches.counts(to.catalog, found["id"]) if found else {"done": 0, "failed": 0}


def holders(to) -> int:
    with to.catalog.transaction() as connection:
        query = "SELECT count(DISTINCT holder) AS n FROM batch_rows WHERE status = 'running'"
        return connection.execute(query).fetchone()["n"]


def test_a_run_whose_process_is_killed_is_asked_for_again_and_goes_on(pool, workers, shared_to, operator, tmp_path):
    (tmp_path / "disk.raw").write_bytes(os.urandom(72 * MIB))
    workers(1)
    operator.execute(HOLD)
    with silence_shortened(pool, 10):
        run = pool.run("import-image", source=str(tmp_path / "disk.raw"), name="killed", format="raw")
        wait_for(lambda: packs(operator, "killed"), 60)
        before = packs(operator, "killed")
        for pid in descendants(pool.workers[0].pid):
            os.kill(pid, signal.SIGKILL)
        operator.execute(RELEASE)
        wait_for(lambda: "AwaitingRetry" in names_of(pool, run), 60)
    wait_for(is_in(pool, run, "COMPLETED"), 60)

    names = names_of(pool, run)
    assert names.index("Crashed") < names.index("Unheard") < names.index("AwaitingRetry")
    image = the_image(shared_to, "killed")
    assert image["status"] == "active"
    assert operations.content(shared_to, image["id"]) == (tmp_path / "disk.raw").read_bytes()
    assert before < packs(operator, "killed")
    assert len(packs(operator, "killed")) == 3  # what was there when it died was not brought again


def test_a_run_that_kills_its_process_each_time_fails_for_good_and_so_does_its_image(
    pool, shared_to, raw_disk, tmp_path
):
    """Here the test is worker and automation: with the silence of the latter, five deaths would take minutes."""
    (tmp_path / "sitecustomize.py").write_text(DEADLY)
    run = pool.run("import-image", source=str(raw_disk), name="deadly")
    environment = {**pool.environment, "PREFECT__FLOW_RUN_ID": run, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    again = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": DIED}
    deaths = 0
    while subprocess.run([sys.executable, "-m", "prefect.engine"], env=environment, check=False).returncode == -9:
        deaths += 1
        pool.ask(f"/flow_runs/{run}/set_state", {"state": again, "force": True})

    assert deaths == 5
    assert pool.state(run)["type"] == "FAILED"
    failed = pool.state(run)["message"]
    assert "run-died: " in failed
    assert "5 deaths within a day; find out what kills it" in failed
    image = the_image(shared_to, "deadly")
    assert image["status"] == "killed"
    assert image["failure"]["code"] == "run-died"


def test_no_more_runs_at_once_than_a_worker_the_pool_and_a_schedule_allow(pool, workers, shared_to, operator, raw_disk):
    def begun(runs):
        return [run for run in runs if pool.state(run)["type"] in ("PENDING", "RUNNING")]

    def limit(number):
        pool.ask("/work_pools/darkroom", {"concurrency_limit": number}, method="PATCH")

    workers(1)
    with operator.transaction():
        operator.execute("LOCK TABLE images IN SHARE ROW EXCLUSIVE MODE")  # where an import makes its row, it waits
        runs = [pool.run("import-image", source=str(raw_disk), name=f"limit-{number}") for number in range(2)]
        wait_for(lambda: begun(runs), 60)
        time.sleep(3 * QUERY)
        assert len(begun(runs)) == 1  # the limit of the worker
        limit(1)
        workers(1)
        time.sleep(3 * QUERY)
        assert len(begun(runs)) == 1  # the limit of the pool, with a worker that has nothing to do
    wait_for(lambda: {pool.state(run)["type"] for run in runs} == {"COMPLETED"}, 60)
    assert {the_image(shared_to, f"limit-{number}")["status"] for number in range(2)} == {"active"}

    limit(None)
    with operator.transaction():
        operator.execute("LOCK TABLE leases IN ACCESS EXCLUSIVE MODE")
        first = pool.run("reap-images", all_projects=True)
        wait_for(is_in(pool, first, "RUNNING"), 60)
        second = pool.run("reap-images", all_projects=True)
        wait_for(is_in(pool, second, "CANCELLED"), 60)
        assert pool.state(first)["type"] == "RUNNING"
    wait_for(is_in(pool, first, "COMPLETED"), 60)


@pytest.mark.timeout(400)
def test_sixty_images_by_three_workers_one_killed_and_the_server_restarted(pool, workers, shared_to, tmp_path):
    to = shared_to
    workers(3)
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
        images = connection.execute("SELECT name, status FROM images WHERE name LIKE 'disk-%'").fetchall()
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
