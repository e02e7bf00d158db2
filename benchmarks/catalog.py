"""A catalog of a million images: pages at any depth, and the report beside COPY of the same columns.

    python benchmarks/catalog.py [IMAGES]

Starts a server of its own in a temporary folder. Prints times, their ratio, and the peak memory of the report.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import psycopg
from psycopg import sql

from darkroom import postgres, reporting, systems
from darkroom.catalog import Catalog, listing
from darkroom.catalog.listing import Filter
from darkroom.settings import Settings
from darkroom.systems import Systems

ROUNDS = 5
ROWS = """
INSERT INTO images (name, status, type, source, request, source_format, properties, virtual_size, allocated_size,
    stored_size, new_size, family, created_at, active_at, key_name)
SELECT (ARRAY['web', 'db', 'cache', 'build'])[1 + n % 4] || '-' || n,
    CASE WHEN n % 50 = 0 THEN 'killed' WHEN n % 51 = 0 THEN 'deactivated' WHEN n % 52 = 0 THEN 'deleted'
        ELSE 'active' END,
    CASE WHEN n % 5 = 0 THEN 'data' ELSE 'system' END, '/disks/' || n || '.vmdk', '{}', 'vmdk',
    jsonb_build_object('os_type', CASE WHEN n % 3 = 0 THEN 'Windows' ELSE 'Linux' END,
        'os_version', CASE WHEN n % 3 = 0 THEN 'Windows Server 2022' ELSE 'Debian ' || 10 + n % 4 END, 'min_ram', 512),
    (10 + n % 90) * 1024::bigint ^ 3, (1 + n % 9) * 1024::bigint ^ 3, (n % 1000 + 1) * 1024::bigint ^ 2,
    (n % 100 + 1) * 1024::bigint ^ 2, CASE WHEN n % 10 < 4 THEN 'family-' || n % 40 END,
    now() - (n / 3 || ' seconds')::interval, now() - (n / 3 || ' seconds')::interval,
    CASE WHEN n % 2 = 0 THEN 'gold' END
FROM generate_series(1, %s) n"""
BESIDE = (
    "INSERT INTO disks (image_id, number, virtual_size) SELECT id, 0, virtual_size FROM images",
    """INSERT INTO tags SELECT id, 'team', (ARRAY['web', 'db', 'ops'])[1 + abs(hashtext(name)) % 3] FROM images""",
    """INSERT INTO tags SELECT id, 'rare', '' FROM images WHERE name LIKE '%-12345'""",
)


def fill(dsn: str, count: int) -> None:
    """Make the images of the project `default`, with one statement a table."""
    Catalog(dsn, "default").close()
    with psycopg.connect(dsn, options="-c search_path=darkroom") as connection:
        project = connection.execute("SELECT id, role_name FROM projects").fetchone()
        assert project
        connection.execute("SET LOCAL synchronous_commit = off")
        rows = ROWS.replace("INSERT INTO images (", "INSERT INTO images (project_id, ").replace(
            "SELECT (ARRAY", f"SELECT '{project[0]}'::uuid, (ARRAY", 1
        )
        connection.execute(rows.replace("%s", str(count)).encode())
        for statement in BESIDE:
            connection.execute(statement.encode())
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")


def pages(to: Systems, count: int) -> None:
    """The best of five times for a page of 50, in each order, at the beginning and near the end."""
    print("page of 50, ms, by order: at the beginning, behind nine tenths of the list")
    for order in (f"{name}{way}" for name in listing.SORTS for way in ("", ":desc")):
        shown = [f"{1000 * best(to, order, depth):6.1f}" for depth in (0, count * 9 // 10)]
        print(f"  {order:16} {'  '.join(shown)}", flush=True)


def best(to: Systems, order: str, depth: int) -> float:
    name, _, way = order.partition(":")
    ordered = ", ".join(f"{column} {way}" for column in listing.SORTS[name])
    query = f"""SELECT i.id FROM images i WHERE i.project_id = (SELECT current_project()) AND i.status <> 'deleted'
        ORDER BY {ordered} OFFSET {depth} LIMIT 1"""
    with to.catalog.transaction() as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row
    times = []
    for _ in range(5):
        began = time.perf_counter()
        listing.page(to.catalog, Filter(), order, 50, str(row["id"]))
        times.append(time.perf_counter() - began)
    return min(times)


def copy(to: Systems, target: Path) -> None:
    """COPY … TO STDOUT of the columns of the report, into a file."""
    columns = sql.SQL(", ").join(sql.SQL(reporting.COLUMNS[name].sql) for name in reporting.DEFAULT)
    query = sql.SQL("COPY ({}) TO STDOUT (FORMAT csv, HEADER)").format(listing.select(Filter(), columns))
    with to.catalog.transaction() as connection, connection.cursor() as cursor, open(target, "wb") as file:
        with cursor.copy(query) as rows:
            for row in rows:
                file.write(row)


def reports(dsn: str, folder: Path) -> None:
    """Report and COPY in turn, each in a process of its own; medians, their ratio, and the peak memory."""
    found: dict[str, list[tuple[float, float, float]]] = {"report": [], "copy": []}
    for _ in range(ROUNDS):
        for what, results in found.items():
            done = subprocess.run(
                [sys.executable, __file__, what, dsn, str(folder)], check=True, capture_output=True, text=True
            )
            results.append(tuple(json.loads(done.stdout)))
    seconds, cpu, peak = ({what: median(row[n] for row in found[what]) for what in found} for n in range(3))
    for what in found:
        print(f"{what:7} {seconds[what]:6.2f} s, of our processor {cpu[what]:5.2f} s, peak {peak[what]:.0f} MiB")
    each = [mine[0] / theirs[0] for mine, theirs in zip(found["report"], found["copy"], strict=True)]
    print(f"ratio {median(each):.2f}, the median of {', '.join(f'{ratio:.2f}' for ratio in sorted(each))}")


def one(what: str, dsn: str, folder: Path) -> None:
    """One run, for `reports`: seconds, processor seconds, peak MiB as JSON."""
    with systems.open_systems(Settings(home=folder, catalog_url=dsn)) as to:
        began, used = time.perf_counter(), time.process_time()
        if what == "copy":
            copy(to, folder / "copy.csv")
        else:
            reporting.report(to, str(folder / "report.csv"), [], Filter())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps([time.perf_counter() - began, time.process_time() - used, peak]))


def main() -> None:
    if len(sys.argv) == 4:
        one(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
        return
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory(prefix="dk-", dir="/tmp") as name:
        folder = Path(name)
        dsn = postgres.ensure(folder / "catalog")
        try:
            fill(dsn, count)
            print(f"{count} images; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors", flush=True)
            with systems.open_systems(Settings(home=folder, catalog_url=dsn)) as to:
                pages(to, count)
            reports(dsn, folder)
        finally:
            postgres.stop(folder / "catalog")


if __name__ == "__main__":
    main()
