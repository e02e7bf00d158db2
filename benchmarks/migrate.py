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
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import sources
from benchmarks.pool import Pool, wait_for
from darkroom import postgres
from darkroom.catalog import batches
from darkroom.migration import batch, work
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
    """What an image costs, in each of the ways."""
    table = sources.make(folder / "sources", images, size=2 * sources.MIB)
    figures: dict[str, float] = {"shell loop: qemu-img convert -c, cp": _shell(folder, table) / images}
    with fresh(folder / "home") as to:
        made = batch.register(to, str(table), "")
        began = time.monotonic()
        work.work(to, made, 2, lambda done, total: None, lambda outcome, status: None, lead=False)
        figures["the functions alone, two at once"] = (time.monotonic() - began) / images
    for workers in (1, 2, 3):
        with fresh(folder / "home") as to:
            pool = Pool(folder / "home" / "prefect")
            try:
                pool.start_workers(workers)
                seconds = migrate(to, pool, table, folder / "out.csv", workers=workers)
                verify(to, folder / "out.csv", images, 0)
            finally:
                pool.close()
        figures[f"migrate-images, workers: {workers}"] = seconds / images
        print(f"  {workers}: {seconds:.1f} s", flush=True)
    few = min(images, 20)
    with fresh(folder / "home"):
        figures["a run of import-image each, in one process"] = _runs(table, few) / few
        figures["a process each: darkroom import"] = _processes(table, few) / few
        subprocess.run([DARKROOM, "down"], check=True)
    print(f"\n| {images} images of 2 MiB | seconds an image | images a minute |\n|---|---|---|")
    for name, seconds in figures.items():
        print(f"| {name} | {seconds:.3f} | {60 / seconds:.0f} |")
    alone, one = figures["the functions alone, two at once"], figures["migrate-images, workers: 1"]
    print(f"\nshare of orchestration at one worker, start of its process included: {100 * (one - alone) / one:.0f} %")


def _shell(folder: Path, table: Path) -> float:
    (folder / "copies").mkdir(exist_ok=True)
    loop = f"""cd {table.parent}; for f in disk-*; do
        qemu-img convert -O qcow2 -c $f {folder}/out.qcow2; cp {folder}/out.qcow2 {folder}/copies/$f.qcow2
    done"""
    began = time.monotonic()
    subprocess.run(["bash", "-ec", loop], check=True)
    return time.monotonic() - began


def _rows(table: Path, count: int) -> list[dict[str, Any]]:
    with open(table, newline="") as file:
        return list(csv.DictReader(file))[:count]


def _processes(table: Path, count: int) -> float:
    began = time.monotonic()
    for row in _rows(table, count):
        command = [DARKROOM, "import", table.parent / row["source"], "--name", f"p-{row['name']}", "--type", "data"]
        subprocess.run(command, check=True, capture_output=True)
    return time.monotonic() - began


def _runs(table: Path, count: int) -> float:
    """Many runs in one process, as a flow that calls the flow of an import for each row would make them."""
    requests = [
        {"source": str(table.parent / row["source"]), "name": f"r-{row['name']}"} for row in _rows(table, count)
    ]
    code = """if True:
        import json, os, sys, time
        from pathlib import Path
        from commands.flow import prefect_environment
        os.environ.update(prefect_environment(Path(os.environ["DARKROOM_HOME"]) / "prefect"))
        from prefect import flow
        from flows.import_image import import_image
        from flows.parameters.transfer import ImportImage
        @flow
        def all_of_them(requests):
            began = time.monotonic()
            for request in requests:
                import_image(ImportImage(**request))
            print(time.monotonic() - began)
        all_of_them(json.load(sys.stdin))"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, input=json.dumps(requests), cwd=ROOT, check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])


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
