"""Batch migration: the table as a whole, each row once, each failure its own, killed anywhere."""

import collections
import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from benchmarks import sources
from darkroom import creation, importing
from darkroom.catalog import Catalog, batches, create_project, uploads
from darkroom.migration import batch, work
from darkroom.migration.table import TableInvalidError
from darkroom.settings import Settings
from darkroom.store import StoreUnavailableError, s3
from darkroom.systems import open_systems
from tests import operations

DARKROOM = str(Path(sys.executable).with_name("darkroom"))
SMALL = 1 << 20

WORKER = """
import sys
from darkroom.migration import work
from darkroom.settings import Settings
from darkroom.systems import open_systems
def done(outcome, status):
    print(outcome.number, status, flush=True)
with open_systems(Settings()) as to:
    work.work(to, sys.argv[1], 2, lambda done, total: None, done, lead=False)
"""


def ignore(outcome, status):
    pass


@pytest.fixture
def table(tmp_path):
    """The table of ten small sources."""
    return sources.make(tmp_path / "sources", 10, size=SMALL + (1 << 18))


@pytest.fixture
def at_once(monkeypatch):
    """What failed is tried again without a pause."""
    monkeypatch.setattr(batches, "_LONGEST_WAIT", 0)


def migrate(to, table, report="", concurrency=2, **options):
    made = batch.register(to, str(table), str(report), **options)
    return work.work(to, made, concurrency, operations.quiet, ignore, lead=True)


def images(to) -> list[tuple[str, str]]:
    with to.catalog.transaction() as connection:
        rows = connection.execute("SELECT name, status FROM images ORDER BY name, status").fetchall()
    return [(row["name"], row["status"]) for row in rows]


def lines(report) -> list[dict[str, str]]:
    with open(report, newline="") as file:
        return list(csv.DictReader(file))


def write(path, *rows) -> Path:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def test_all_errors_of_a_table_are_told_at_once_by_row_and_column(to, tmp_path):
    table = write(
        tmp_path / "bad.csv",
        ("source", "name", "min_ram", "format", "quick", "tag:team", "min_disk", "key"),
        ("a.raw", "fine", "", "", "", "", "", "gold"),
        ("b.raw", "a/b", "many", "qcow3", "perhaps", "web", "", ""),
        ("", "empty", "", "", "", "", "", ""),
        ("https://user:secret@host/c", "c", "", "", "", "two words", "5000", ""),
        ("d.raw", "fine", "", "", "", "", "", "silver"),
    )

    with pytest.raises(TableInvalidError) as caught:
        batch.register(to, str(table), "")

    found = caught.value.found.splitlines()
    assert [line.partition(": ")[0] for line in found] == [
        *(f"row 3, column {column}" for column in ("min_ram", "format", "quick")),
        "row 4, column source",
        "row 5, column source",
        "row 5, column min_disk",
        "row 5, column tag:…",
        "row 6, column name",
    ]
    assert "secret" not in str(caught.value)
    assert images(to) == []


def test_a_key_that_is_missing_is_an_error_of_its_row(to, tmp_path):
    table = write(tmp_path / "t.csv", ("source", "name", "key"), ("/a", "a", "gold"), ("/b", "b", "silver"))

    with pytest.raises(TableInvalidError, match="row 3, column key: key-not-found: silver"):
        batch.register(to, str(table), "")


def test_each_row_becomes_one_image_and_one_line_of_the_report(to, table, tmp_path):
    result = migrate(to, table, tmp_path / "out.csv", concurrency=4)

    found = lines(tmp_path / "out.csv")
    assert (result["rows"], result["done"], result["failed"], result["left"]) == (10, 10, 0, 0)
    assert [int(line["row"]) for line in found] == list(range(2, 12))
    assert {line["status"] for line in found} == {"done"}
    assert images(to) == [(line["name"], "active") for line in found]
    third = operations.content(to, found[2]["image"])
    raw = tmp_path / "third.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", table.parent / "disk-00002.vmdk", raw], check=True)
    assert third == raw.read_bytes()

    again = migrate(to, table, tmp_path / "out.csv")
    assert again == result
    assert len(images(to)) == 10


def test_broken_sources_fail_alone_each_for_its_own_reason(to, tmp_path):
    table = sources.make(tmp_path / "sources", 20, size=SMALL, broken_every=2)

    result = migrate(to, table, tmp_path / "out.csv", concurrency=4)

    codes = [line["code"] for line in lines(tmp_path / "out.csv")]
    assert codes == [code for _, reason in sources.WAYS for code in ("", reason)]
    assert result["failures"] == dict.fromkeys(sorted(reason for _, reason in sources.WAYS), 1)
    assert [status for _, status in images(to)].count("active") == 10
    assert all(line["reason"].startswith(line["code"] + ": ") for line in lines(tmp_path / "out.csv") if line["code"])


def test_what_failed_is_tried_again_when_it_is_asked_for(to, table, tmp_path):
    source = table.parent / "disk-00000.raw"
    source.rename(tmp_path / "elsewhere")
    assert migrate(to, table)["failures"] == {"source-not-found": 1}
    (tmp_path / "elsewhere").rename(source)
    assert migrate(to, table)["failed"] == 1

    result = migrate(to, table, retry_failed=True)

    assert (result["done"], result["failed"]) == (10, 0)
    assert images(to).count(("disk-00001", "active")) == 1


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_what_a_worker_began_the_steps_of_an_import_end(to, table, monkeypatch, kind):
    source = next(table.parent.glob(f"*.{kind}"))
    real = uploads.finish_run

    def broken(*arguments):
        raise StoreUnavailableError("the store")

    monkeypatch.setattr(uploads, "finish_run", broken)
    image = operations.import_image(to, source, name="one", until="register")
    with pytest.raises(StoreUnavailableError):
        importing.take_in(to, image)
    monkeypatch.setattr(uploads, "finish_run", real)

    assert operations.import_image(to, source, name="one") == image
    raw = table.parent / "out.raw"
    subprocess.run(["qemu-img", "convert", "-f", kind, "-O", "raw", source, raw], check=True)
    assert operations.content(to, image) == raw.read_bytes()


@pytest.mark.usefixtures("at_once")
def test_what_may_pass_is_tried_again_and_given_up_in_the_end(to, table, monkeypatch):
    failures = collections.Counter()
    real = creation.look

    def look(systems, row, number, reader):
        name = row["name"]
        failures[name] += 1
        if (name == "disk-00003" and failures[name] < 4) or name == "disk-00004":
            raise StoreUnavailableError("the store")
        return real(systems, row, number, reader)

    monkeypatch.setattr(creation, "look", look)
    result = migrate(to, table)

    assert result["failures"] == {"store-unavailable": 1}
    assert failures["disk-00003"] == 4
    assert failures["disk-00004"] == batches.MAX_ATTEMPTS
    assert images(to).count(("disk-00003", "active")) == 1


def test_what_waits_for_its_next_attempt_waits_longer_each_time(to, table):
    made = batch.register(to, str(table), "")
    waits = []
    for _ in range(3):
        row = batches.claim(to.catalog, made)
        batches.finish(to.catalog, made, batches.Outcome(row["number"], 0.1, code="x", reason="x", again=True))
        with to.catalog.transaction() as connection:
            query = "SELECT round(extract(epoch FROM due_at - now())) AS wait FROM batch_rows WHERE number = %s"
            waits.append(int(connection.execute(query, (row["number"],)).fetchone()["wait"]))
            connection.execute("UPDATE batch_rows SET due_at = now() WHERE number = %s", (row["number"],))

    assert waits == [2, 4, 8]


def test_a_row_whose_processes_keep_dying_is_given_up(to, table):
    made = batch.register(to, str(table), "")
    with to.catalog.transaction() as connection:
        connection.execute("UPDATE batch_rows SET attempts = %s WHERE number = 2", (batches.MAX_ATTEMPTS,))

    assert work.work(to, made, 2, operations.quiet, ignore, lead=False)["failures"] == {"gave-up": 1}


def start(made) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", WORKER, made], stdout=subprocess.PIPE, text=True)


def test_a_worker_killed_with_9_is_replaced_by_the_others_and_nothing_is_imported_twice(to, tmp_path):
    table = sources.make(tmp_path / "sources", 30, size=SMALL, broken_every=10)
    made = batch.register(to, str(table), str(tmp_path / "out.csv"))
    first, second = start(made), start(made)
    for _ in range(4):
        first.stdout.readline()
    first.send_signal(signal.SIGKILL)
    told = first.communicate()[0]
    assert second.wait(60) == 0

    finished = batches.counts(to.catalog, made)
    assert (finished["done"], finished["failed"]) == (27, 3), told
    expected = {f"disk-{number:05}" for number in range(30) if number % 10 != 9}
    names = collections.Counter(name for name, status in images(to) if status == "active")
    assert names == dict.fromkeys(expected, 1)
    assert {name for name, status in images(to) if status not in ("active", "killed")} == set()
    assert [line["status"] for line in lines(tmp_path / "out.csv")].count("done") == 27
    second.stdout.close()


def test_the_lease_of_a_worker_on_another_host_is_waited_for(to, table):
    made = batch.register(to, str(table), "")
    with to.catalog.transaction() as connection:
        connection.execute(
            """UPDATE batch_rows SET status = 'running', holder = 'elsewhere boot 1 1',
            expires_at = now() + interval '3 seconds' WHERE number = 2"""
        )
    began = time.monotonic()

    result = work.work(to, made, 2, operations.quiet, ignore, lead=False)

    assert result["done"] == 10
    assert time.monotonic() - began > 2


def test_a_row_that_another_process_took_over_is_not_ticked_off_by_the_first(to, table):
    made = batch.register(to, str(table), "")
    row = batches.claim(to.catalog, made)
    with to.catalog.transaction() as connection:
        connection.execute("UPDATE batch_rows SET holder = 'elsewhere boot 1 1' WHERE number = %s", (row["number"],))

    assert batches.finish(to.catalog, made, batches.Outcome(row["number"], 0.1)) == "lost"


def test_a_stopped_batch_begins_no_row_until_it_is_asked_for_again(to, table):
    made = batch.register(to, str(table), "", run="1")
    batches.stop(to.catalog, "1")

    assert work.work(to, made, 2, operations.quiet, ignore, lead=False)["left"] == 10
    assert migrate(to, table)["done"] == 10


def test_no_other_project_sees_a_batch(to, catalog_url, table, monkeypatch):
    made = batch.register(to, str(table), "")
    with Catalog(catalog_url, None) as operator, operator.transaction() as connection:
        create_project(connection, "other")
    monkeypatch.setenv("DARKROOM_PROJECT", "other")

    with open_systems(Settings()) as other:
        with pytest.raises(batches.BatchMissingError):
            batches.get(other.catalog, made)
        assert batches.claim(other.catalog, made) is None
        with other.catalog.transaction() as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("INSERT INTO batch_rows (batch_id, number, request) VALUES (%s, 99, '{}')", (made,))


def test_a_table_its_sources_and_its_report_may_lie_in_a_bucket(to, table, bucket, s3_server, monkeypatch):
    client = s3.new_client(s3_server.url)
    for path in table.parent.iterdir():
        client.put_object(Bucket=bucket, Key=f"in/{path.name}", Body=path.read_bytes())

    with open_systems(Settings()) as systems:
        result = migrate(systems, f"s3://{bucket}/in/sources.csv", f"s3://{bucket}/out/report.csv")

    body = client.get_object(Bucket=bucket, Key="out/report.csv")["Body"].read().decode()
    assert result["done"] == 10
    assert len(body.splitlines()) == 11


def test_from_the_command_line(to, table, tmp_path, prefect_api, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", prefect_api)
    (table.parent / "disk-00001.qcow2").write_bytes(b"broken" * 1000)
    report = tmp_path / "out.csv"

    def run(*options):
        return subprocess.run([DARKROOM, "migrate", *options], capture_output=True, text=True, check=False, timeout=100)

    dry = run(str(table), "--dry-run")
    assert (dry.returncode, dry.stdout, images(to)) == (0, "", [])
    assert dry.stderr == "10 rows: 10 ready; nothing was imported\n"
    done = run(str(table), "--report", str(report), "--json")
    assert done.returncode == 1, done.stderr
    result = json.loads(done.stdout)
    assert (result["done"], result["failures"]) == (9, {"format-mismatch": 1})
    assert len(lines(report)) == 10

    broken = run(str(write(tmp_path / "bad.csv", ("source", "name"), ("/a", "x"), ("/b", "x"), ("", "y"))))
    assert broken.returncode == 3
    assert broken.stderr.splitlines()[:2] == [
        "row 3, column name: row 2 has 'x' too",
        "row 4, column source: it is empty",
    ]
    assert broken.stderr.splitlines()[2].startswith("darkroom: table-invalid: bad.csv: ")


def test_cancelling_the_run_that_leads_a_batch_stops_it_in_all_workers(to, table):
    from uuid import uuid4

    from prefect.client.schemas.objects import FlowRun

    from flows.migrate_images import migrate_images

    run = FlowRun(flow_id=uuid4(), parameters={"request": {"source": str(table), "blocks": {}}})
    made = batch.register(to, str(table), "", run=str(run.id))
    other = batch.register(to, str(write(table.parent / "other.csv", ("source", "name"), ("/a", "a"))), "", run="2")
    (hook,) = migrate_images.on_cancellation_hooks

    hook(migrate_images, run, None)

    assert batches.is_stopped(to.catalog, made)
    assert not batches.is_stopped(to.catalog, other)
