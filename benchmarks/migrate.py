"""Batch migration: 500 small images by three workers through a kill and a restart, and what it costs per image.

    python benchmarks/migrate.py [--images 500] [--folder build/migrate] [proof | broken | speed] …

`proof`: one worker is killed with -9 with all that it runs, and the Prefect server is restarted, in the middle; every
image is there once, and the report is whole. `broken`: every tenth source is broken, in ten ways, and each has its
reason. `speed`: images per minute at 1, 2 and 3 workers, against a shell loop, against the same work without Prefect,
and against a process or a run for each image.
"""

import argparse
import collections
import contextlib
import csv
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import sources
from benchmarks.pool import Pool, wait_for
from darkroom import postgres
from darkroom.catalog import batches
from darkroom.settings import Settings
from darkroom.systems import Systems, open_systems

ROOT = Path(__file__).parent.parent
DARKROOM = str(ROOT / ".venv/bin/darkroom")


@contextlib.contextmanager
def fresh(folder: Path) -> Iterator[Systems]:
    """Systems of an empty home, which is that of all that is started within."""
    shutil.rmtree(folder, ignore_errors=True)
    os.environ["DARKROOM_HOME"] = str(folder)
    try:
        with open_systems(Settings()) as to:
            yield to
    finally:
        postgres.stop(folder / "catalog")


def migrate(to: Systems, pool: Pool, table: Path, report: Path, *, workers: int, harm: bool = False) -> float:
    """A migration by workers of the pool; its seconds, from the request to the last row."""
    began = time.monotonic()
    pool.run("migrate-images", source=str(table), report=str(report), workers=workers, concurrency=2)
    identify = "SELECT id::text FROM batches ORDER BY created_at DESC LIMIT 1"

    def rows(*statuses: str) -> int:
        with to.catalog.transaction() as connection:
            found = connection.execute(identify).fetchone()
        counts = batches.counts(to.catalog, found["id"]) if found else {}
        return sum(counts.get(status, 0) for status in statuses)

    def holders() -> int:
        query = "SELECT count(DISTINCT holder) AS n FROM batch_rows WHERE status = 'running'"
        with to.catalog.transaction() as connection:
            return int(connection.execute(query).fetchone()["n"])

    total = len(table.read_text().splitlines()) - 1
    if harm:
        wait_for(lambda: rows("done", "failed") > total // 10 and holders() == workers, 600)
        victim = max(pool.workers, key=lambda worker: len(pool.runs_of(worker)))
        pool.kill(victim)
        print(f"  {rows('done', 'failed')} rows: a worker was killed with -9, with all that it ran", flush=True)
        wait_for(lambda: rows("done", "failed") > total // 2, 600)
        print(f"  {rows('done', 'failed')} rows: the Prefect server is killed with -9 and restarted", flush=True)
        pool.restart_server()
    wait_for(lambda: rows("done", "failed") == total, 3600)
    return time.monotonic() - began


def verify(to: Systems, report: Path, expected: int, broken: int) -> None:
    """Every image once and active, the report whole, each broken source with its own reason."""
    with to.catalog.transaction() as connection:
        found = connection.execute("SELECT name, status FROM images").fetchall()
    active = collections.Counter(row["name"] for row in found if row["status"] == "active")
    wait_for(lambda: report.exists() and "running" not in report.read_text() and "queued" not in report.read_text(), 60)
    with open(report, newline="") as file:
        lines = list(csv.DictReader(file))
    codes = collections.Counter(line["code"] for line in lines if line["status"] == "failed")
    wanted = collections.Counter(sources.WAYS[number % len(sources.WAYS)][1] for number in range(broken))
    assert len(active) == expected - broken, len(active)
    assert set(active.values()) == {1}
    assert not [row for row in found if row["status"] not in ("active", "killed")]
    assert len(lines) == expected
    assert [line["status"] for line in lines].count("done") == expected - broken
    assert codes == wanted, codes
    assert all(line["reason"] for line in lines if line["code"])
    print(f"  {len(active)} images, each once; the report has {len(lines)} lines, {sum(codes.values())} with a reason")


def proof(folder: Path, images: int, *, broken: bool) -> None:
    """The migration that loses a worker and its server."""
    every = 10 if broken else 0
    table = sources.make(folder / ("broken" if broken else "sources"), images, size=2 * sources.MIB, broken_every=every)
    with fresh(folder / "home") as to:
        pool = Pool(folder / "home" / "prefect")
        try:
            pool.start_workers(3)
            seconds = migrate(to, pool, table, folder / "out.csv", workers=3, harm=True)
            print(f"  {seconds:.0f} s, {60 * images / seconds:.0f} rows a minute", flush=True)
            verify(to, folder / "out.csv", images, images // 10 if broken else 0)
        finally:
            pool.close()


def speed(folder: Path, images: int) -> None:
    """What an image costs in each of the ways: by the clock, and in processor time, which a busy machine blurs less."""
    table = sources.make(folder / "sources", images, size=2 * sources.MIB)
    few = min(images, 10)
    figures: dict[str, tuple[float, float, int]] = {}

    def note(name: str, count: int, work: Callable[[], object]) -> None:
        before, began = os.times(), time.monotonic()
        work()
        seconds, after = time.monotonic() - began, os.times()
        figures[name] = (seconds / count, (sum(after[:4]) - sum(before[:4])) / count, count)
        print(f"  {name}: {seconds:.1f} s", flush=True)

    note("shell loop: qemu-img convert -c, cp", images, lambda: _shell(folder, table))
    with fresh(folder / "home"):
        note("the functions alone, without Prefect", images, lambda: _child(_ALONE, str(table)))
    with fresh(folder / "home"):
        _child(_SERVER)
        note("darkroom migrate", images, lambda: _run("migrate", str(table)))
        note("a run each, in one process", few, lambda: _child(_RUNS, str(table), str(few)))
        note("a process each: darkroom import", few, lambda: _processes(table, few))
        _run("down")
    for workers in (1, 2, 3):
        seconds, taken = _in_pool(folder, table, images, workers)
        figures[f"migrate-images, workers: {workers}"] = (seconds / images, taken / images, images)
    print(f"\n| images of 2 MiB, load {os.getloadavg()[1]:.0f} | count | s an image | CPU s an image | a minute |")
    print("|---|---|---|---|---|")
    for name, (seconds, cpu, count) in figures.items():
        print(f"| {name} | {count} | {seconds:.3f} | {cpu:.3f} | {60 / seconds:.0f} |")
    alone = figures["the functions alone, without Prefect"]
    for name in ("darkroom migrate", "migrate-images, workers: 1"):
        clock, cpu = (100 * (1 - alone[which] / figures[name][which]) for which in (0, 1))
        print(f"share of orchestration, its start included, of {name}: {clock:.0f} % by the clock, {cpu:.0f} % of CPU")


def _in_pool(folder: Path, table: Path, images: int, workers: int) -> tuple[float, float]:
    """A migration by workers of the pool: its seconds, and the processor time of the workers and their runs."""
    with fresh(folder / "home") as to:
        pool = Pool(folder / "home" / "prefect")
        try:
            pool.start_workers(workers)
            before = pool.processor_time()
            seconds = migrate(to, pool, table, folder / "out.csv", workers=workers)
            verify(to, folder / "out.csv", images, 0)
            wait_for(lambda: not any(map(pool.runs_of, pool.workers)), 60)
            return seconds, pool.processor_time() - before
        finally:
            pool.close()


def _shell(folder: Path, table: Path) -> None:
    (folder / "copies").mkdir(exist_ok=True)
    loop = f"""cd {table.parent}; for f in disk-*; do
        qemu-img convert -O qcow2 -c $f {folder}/out.qcow2; cp {folder}/out.qcow2 {folder}/copies/$f.qcow2
    done"""
    subprocess.run(["bash", "-ec", loop], check=True)


_ALONE = """
import sys
from darkroom.migration import batch, work
from darkroom.settings import Settings
from darkroom.systems import open_systems
with open_systems(Settings()) as to:
    made = batch.register(to, sys.argv[1], "")
    work.work(to, made, 4, lambda done, total: None, lambda outcome, status: None, lead=False)
"""
_SERVER = """
import os
from pathlib import Path
from darkroom import prefect_server
prefect_server.ensure(Path(os.environ["DARKROOM_HOME"]) / "prefect")
"""
_RUNS = """
import csv, os, sys
from pathlib import Path
from commands.flow import prefect_environment
os.environ.update(prefect_environment(Path(os.environ["DARKROOM_HOME"]) / "prefect"))
from prefect import flow
from flows.import_image import import_image
from flows.parameters.transfer import ImportImage
@flow
def all_of_them(table, count):
    for row in list(csv.DictReader(open(table)))[:count]:
        import_image(ImportImage(source=str(Path(table).parent / row["source"]), name="r-" + row["name"]))
all_of_them(sys.argv[1], int(sys.argv[2]))
"""


def _child(code: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, check=True, capture_output=True)


def _run(*words: str) -> None:
    subprocess.run([DARKROOM, *words], check=True, capture_output=True)


def _processes(table: Path, count: int) -> None:
    """An import each, as a script over the command line makes them."""
    with open(table, newline="") as file:
        for row in list(csv.DictReader(file))[:count]:
            _run("import", str(table.parent / row["source"]), "--name", f"p-{row['name']}", "--type", "data")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="*", default=["proof", "broken", "speed"])
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--folder", type=Path, default=ROOT / "build/migrate")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    folder = options.folder.absolute()
    for what in options.what:
        print(f"{what}: {options.images} images", flush=True)
        if what == "speed":
            speed(folder, options.images)
        else:
            proof(folder, options.images, broken=what == "broken")


if __name__ == "__main__":
    main()
