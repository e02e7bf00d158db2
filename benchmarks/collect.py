"""What collecting costs: the plan of a large store, and the bytes that collection and compaction free in a second.

    python benchmarks/collect.py [--packs 100000] [--size 1024] [--folder build/collect]

The large store is rows, and files without content; the bytes are real. Peers: `find` over the same store, and `rm` and
`cp` of the same files. Nothing is started that the script does not stop.
"""

import argparse
import dataclasses
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

sys.path.insert(0, str(Path(__file__).parent.parent))

from darkroom import collect, creation, deleting, importing, packs, postgres
from darkroom.settings import Settings
from darkroom.systems import Systems, open_systems

MiB = 1 << 20
_CHUNKS = 64
"""Of a pack of the large store."""


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.monotonic()
    result = work()
    return time.monotonic() - started, result


def quiet(done: int, total: int) -> None:
    pass


def add(to: Systems, path: Path, name: str) -> str:
    image = importing.register(to, importing.ImportRequest(source=str(path), name=name, type="data", format="raw"))[
        "image"
    ]
    importing.validate(to, image, quiet)
    importing.probe(to, image)
    creation.create_data_key(to, image)
    importing.upload_disk(to, image, quiet)
    creation.activate(to, image)
    return image


def remove(to: Systems, image: str) -> None:
    deleting.delete(to, image)
    deleting.purge(to, image)


def shell(command: str) -> float:
    return timed(lambda: subprocess.run(["bash", "-ec", command], check=True, stdout=subprocess.DEVNULL))[0]


def freed(to: Systems, operator: Systems, folder: Path, size: int) -> None:
    """An image of its own packs goes whole; then one that leaves a fifth of each pack to another image."""
    store = to.settings.home / "store"
    disk, part = folder / "disk.raw", folder / "part.raw"
    data = random.Random(1).randbytes(MiB)
    with open(disk, "wb") as whole, open(part, "wb") as fifth:
        for number in range(size):
            half, mark = data[: MiB // 2 - 8], number.to_bytes(8, "big")
            block = mark + half + half + mark
            whole.write(block)
            if number % 5 == 0:
                fifth.write(block)
    one = add(to, disk, "one")
    shutil.copytree(store, folder / "copy")
    peer = shell(f"rm -r {folder}/copy")
    remove(to, one)
    seconds, result = timed(lambda: collect.collect(operator))
    row(
        f"collect {result['freed_size'] // MiB} MiB in {result['packs']} packs",
        "rm -r of the same files",
        seconds,
        peer,
    )
    one = add(to, disk, "one")
    add(to, part, "part")
    shutil.copytree(store, folder / "copy")
    shell("sync")
    peer = shell(f"cp {part} {folder}/live; sync {folder}/live; cmp {part} {folder}/live; rm -r {folder}/copy")
    remove(to, one)
    seconds, result = timed(lambda: collect.collect(operator))
    copied = part.stat().st_size // MiB
    what = f"compact {result['compacted']} packs: {result['freed_size'] // MiB} MiB freed, {copied} copied"
    row(what, "cp, sync and cmp of the live bytes, rm -r of all", seconds, peer)


def planned(to: Systems, operator: Systems, count: int) -> None:
    """Rows and empty files of a large store: three references on each pack, a hundredth of the packs without any."""
    store = to.settings.home / "store"
    with operator.catalog.transaction() as connection:
        scope = connection.execute("SELECT id, uuid, project_id FROM scopes LIMIT 1").fetchone()
        assert scope
        images = [
            connection.execute(
                """INSERT INTO images (project_id, name, status, type, source, request, scope_id, operation)
                VALUES (%s, %s, 'active', 'data', '', '{}', %s, 'import') RETURNING id""",
                (scope["project_id"], f"large-{number}", scope["id"]),
            ).fetchone()["id"]  # type: ignore[index]
            for number in range(3)
        ]
        ids = [uuid4() for _ in range(count)]
        connection.execute(
            """INSERT INTO packs (uuid, scope_id, status, size, positions)
            SELECT u, %s, 'stored', 33554432, (SELECT array_agg(n * 524288) FROM generate_series(0, %s) n)
            FROM unnest(%s::uuid[]) u""",
            (scope["id"], _CHUNKS - 1, ids),
        )
        connection.execute(
            """INSERT INTO refs SELECT i, p.id,
                repeat(CASE p.id %% 100 WHEN 1 THEN '0001' ELSE '1111' END, %s)::bit varying
            FROM packs p, unnest(%s::uuid[]) i WHERE p.uuid = ANY(%s) AND p.id %% 100 <> 0""",
            (_CHUNKS // 4, images, ids),
        )
    make_files(store, scope["uuid"], ids)
    with operator.catalog.transaction() as connection:
        connection.execute("ANALYZE")
        sizes = connection.execute(
            """SELECT pg_total_relation_size('refs') AS refs, pg_total_relation_size('packs') AS packs,
            (SELECT sum(pg_column_size(used)) FROM refs) AS used,
            (SELECT sum(pg_column_size(positions)) FROM packs) AS positions"""
        ).fetchone()
    peer = shell(f"find {store} -type f -printf '%P %s\\n' | wc -l")
    seconds, plan = timed(lambda: collect.plan(operator.catalog, operator.store))
    what = f"plan {count:,} packs, {len(plan.packs)} unused and {len(plan.sparse)} sparse"
    row(what, "find of the same store", seconds, peer)
    print(json.dumps({name: int(value) for name, value in (sizes or {}).items()}), file=sys.stderr)


def make_files(store: Path, scope: UUID, ids: list[UUID]) -> None:
    for pack in ids:
        path = store / packs.object_key(scope, pack)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))


def row(what: str, against: str, seconds: float, peer: float) -> None:
    print(f"| {what} | {against} | {seconds:.2f} s | {peer:.2f} s | {seconds / peer:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--packs", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=1024, help="MiB of data")
    parser.add_argument("--folder", type=Path, default=Path("build/collect"))
    options = parser.parse_args()
    folder = options.folder.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    settings = dataclasses.replace(Settings(), home=folder / "home", catalog_url="", store_url="", keys_url="")
    try:
        with open_systems(settings) as to, open_systems(settings, operator=True) as operator:
            print("| what | against | Darkroom | peer | ratio |\n|---|---|---|---|---|", flush=True)
            freed(to, operator, folder, options.size)
            planned(to, operator, options.packs)
    finally:
        postgres.stop(folder / "home" / "catalog")
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
