"""What an upload does in the catalog: hold a lease, find chunks, bring packs, record finished runs.

The catalog is the lock. An upload takes its references in the transaction in which it finds the chunks, under a
share lock on their packs; the collector locks a pack against that, and only then looks whether a reference exists.
So there is no moment at which an upload relies on a pack that is going away.
"""

import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from uuid import UUID

from darkroom import packs
from darkroom.catalog import Catalog, CatalogUnavailableError, Connection
from darkroom.errors import ConflictError

LEASE = "60 seconds"
RESUME_WINDOW = "24 hours"
_HEARTBEAT = 15.0
_RECORDS = 16
_working: set[UUID] = set()
"""The images that a step of this process works on: a lease tells processes apart, and this the threads of one."""

_held: ContextVar[UUID | None] = ContextVar("lease", default=None)
"""The image whose lease this thread holds."""


class LeaseHeldError(ConflictError):
    """Another process works on the image."""

    code = "in-progress"
    what = "another process is working on this image"
    default_remedy = "wait for it to end; should it have died, its lease expires within a minute"


class LeaseLostError(ConflictError):
    """This process lost its lease: it was paused for long, and another one went on with the image."""

    code = "lease-lost"
    what = "another process went on with this image"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a chunk is stored: pack, offset and length."""

    pack: UUID
    position: int
    length: int


@cache
def holder() -> str:
    """This process, named so that its death can be told on the same host.

    In words: host, boot id, pid, start time, and the namespace in which that is its pid.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    namespace = os.stat("/proc/self/ns/pid").st_ino
    return f"{socket.gethostname()} {boot} {os.getpid()} {_started(os.getpid())} {namespace}"


def _started(pid: int) -> str:
    """The start time of a process in clock ticks (proc(5), field 22), or an empty string."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def is_dead(other: str) -> bool:
    """Whether a holder is known to be dead; one on another host, or in another container of this one, is not."""
    host, boot, pid, started, *namespace = other.split(" ")
    mine = holder().split(" ")
    if host != mine[0]:
        return False
    if boot != mine[1]:
        return True
    if namespace and namespace != mine[4:]:  # there is none in what an earlier version wrote
        return False
    return _started(int(pid)) != started


def take_lease(connection: Connection, image: UUID) -> None:
    """Take the lease of an image that nobody works on, or whose holder is gone; raises LeaseHeldError."""
    row = connection.execute(
        "SELECT holder, expires_at < now() AS expired FROM leases WHERE image_id = %s FOR UPDATE", (image,)
    ).fetchone()
    if image in _working:
        raise LeaseHeldError(str(image), "", "another thread of this process at work")
    if row and row["holder"] != holder() and not row["expired"] and not is_dead(row["holder"]):
        raise LeaseHeldError(str(image), "", f"the lease of {row['holder'].split(' ')[0]}")
    connection.execute(
        """INSERT INTO leases VALUES (%s, %s, now() + %s::interval, now() + %s::interval)
        ON CONFLICT (image_id) DO UPDATE
        SET holder = excluded.holder, expires_at = excluded.expires_at, reap_at = excluded.reap_at""",
        (image, holder(), LEASE, RESUME_WINDOW),
    )


def renew_lease(connection: Connection, image: UUID) -> None:
    """Push the expiry of our lease; in a transaction with other writes it fences them. Raises LeaseLostError."""
    renewed = connection.execute(
        """UPDATE leases SET expires_at = now() + %s::interval, reap_at = now() + %s::interval
        WHERE image_id = %s AND holder = %s""",
        (LEASE, RESUME_WINDOW, image, holder()),
    )
    if renewed.rowcount != 1:
        raise LeaseLostError(str(image))


@contextmanager
def lease(catalog: Catalog, image: UUID) -> Iterator[None]:
    """Hold the lease of an image for the block, renewed in the background; raises LeaseHeldError.

    It is kept afterwards: the next step of the same process goes on with it. Within such a block of the same thread it
    is held already.
    """
    if _held.get() == image:
        yield
        return
    with catalog.transaction() as connection:
        take_lease(connection, image)
        _working.add(image)
    done = threading.Event()
    heart = threading.Thread(target=_beat, args=(catalog, image, done), name="lease", daemon=True)
    heart.start()
    token = _held.set(image)
    try:
        yield
    finally:
        _held.reset(token)
        done.set()
        heart.join()
        _working.discard(image)


def _beat(catalog: Catalog, image: UUID, done: threading.Event) -> None:
    while not done.wait(_HEARTBEAT):
        try:
            with catalog.transaction() as connection:
                renew_lease(connection, image)
        except CatalogUnavailableError:
            continue  # the lease outlives a short absence of the catalog
        except LeaseLostError:
            return  # the next write is fenced and says so


def find_chunks(catalog: Catalog, image: UUID, scope: int, chunk_ids: Sequence[bytes]) -> dict[bytes, Place]:
    """Return those chunks that the scope has, with references for the image taken on their packs."""
    query = """
        WITH found AS MATERIALIZED (
            SELECT c.chunk_id, c.pack_id, p.uuid, c.position, c.length
            FROM chunks c JOIN packs p ON p.id = c.pack_id
            WHERE c.scope_id = %s AND c.chunk_id = ANY(%s) AND p.status = 'stored'
            FOR KEY SHARE OF p
        ), taken AS (
            INSERT INTO refs SELECT %s, pack_id FROM (SELECT DISTINCT pack_id FROM found) AS packs
            ON CONFLICT DO NOTHING
        )
        SELECT chunk_id, uuid, position, length FROM found"""
    with catalog.transaction() as connection:
        rows = connection.execute(query, (scope, list(chunk_ids), image)).fetchall()
    return {row["chunk_id"]: Place(row["uuid"], row["position"], row["length"]) for row in rows}


def begin(catalog: Catalog, image: UUID, size: int) -> None:
    """Begin an upload, or go on with it: reserve the most bytes that it may add to what is stored; raises QuotaError.

    The reservation ends with the upload, however that ends: it counts while the image is unfinished. Packs that a
    killed upload began and did not finish are let go of; the collector removes them.
    """
    with catalog.transaction() as connection:
        renew_lease(connection, image)
        connection.execute(
            """DELETE FROM refs USING packs
            WHERE refs.image_id = %s AND packs.id = refs.pack_id AND packs.status = 'writing'""",
            (image,),
        )
        connection.execute(
            """UPDATE images SET reserved_size = %s + (SELECT coalesce(sum(new_size), 0) FROM runs WHERE image_id = id)
            WHERE id = %s""",
            (size, image),
        )


def share_packs(connection: Connection, source: UUID, image: UUID) -> None:
    """Take references for the image on all packs of another one of the project, whose row the transaction has locked.

    The lock sees to it that the source still has all of its references.
    """
    connection.execute(
        """WITH found AS MATERIALIZED (
            SELECT p.id, r.used FROM refs r JOIN packs p ON p.id = r.pack_id
            WHERE r.image_id = %s AND p.status = 'stored' FOR KEY SHARE OF p
        ) INSERT INTO refs SELECT %s, id, used FROM found ON CONFLICT DO NOTHING""",
        (source, image),
    )


def begin_pack(catalog: Catalog, image: UUID, scope: int, pack: UUID) -> None:
    """Record a pack before its object is written, referenced by the image that brings it."""
    with catalog.transaction() as connection:
        renew_lease(connection, image)
        connection.execute("INSERT INTO packs (uuid, scope_id) VALUES (%s, %s)", (pack, scope))
        # A statement of its own: the policy of references looks whether the pack is the project's.
        connection.execute("INSERT INTO refs SELECT %s, id FROM packs WHERE uuid = %s", (image, pack))


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run: a range of chunks of a disk, all of them stored, and the bytes that it added to the store."""

    disk: int
    first_chunk: int
    chunk_count: int
    new_size: int


def finish_run(catalog: Catalog, image: UUID, run: Run, record: bytes, pack: packs.Pack | None) -> None:
    """Record a run, with its pack as stored and the pack's chunks in the index; all or nothing, fenced by the lease."""
    with catalog.transaction() as connection:
        renew_lease(connection, image)
        if pack is not None:
            _finish_pack(connection, pack)
        connection.execute(
            "INSERT INTO runs VALUES (%s, %s, %s, %s, %s, %s)",
            (image, run.disk, run.first_chunk, run.chunk_count, run.new_size, record),
        )


def _finish_pack(connection: Connection, pack: packs.Pack) -> None:
    ids, positions, lengths = zip(*pack.entries, strict=True)
    connection.execute(
        "UPDATE packs SET status = 'stored', size = %s, positions = %s WHERE uuid = %s",
        (pack.size, list(positions), pack.id),
    )
    connection.execute(
        """INSERT INTO chunks SELECT p.scope_id, c.id, p.id, c.position, c.length FROM packs p,
        unnest(%s::bytea[], %s::integer[], %s::integer[]) AS c (id, position, length)
        WHERE p.uuid = %s ON CONFLICT DO NOTHING""",
        (list(ids), list(positions), list(lengths), pack.id),
    )


def mark_used(catalog: Catalog, image: UUID, places: Sequence[tuple[UUID, int]]) -> None:
    """Note on the image's references that a manifest of it names the chunks at these (pack, offset)."""
    query = """
        WITH named AS (SELECT DISTINCT pack, position FROM unnest(%s::uuid[], %s::integer[]) AS n (pack, position)),
        bits AS (
            SELECT p.id, string_agg((n.pack IS NOT NULL)::int::text, '' ORDER BY e.number)::bit varying AS used
            FROM packs p CROSS JOIN unnest(p.positions) WITH ORDINALITY AS e (position, number)
            LEFT JOIN named n ON n.pack = p.uuid AND n.position = e.position
            WHERE p.uuid IN (SELECT pack FROM named) GROUP BY p.id
        )
        UPDATE refs r SET used = coalesce(r.used | bits.used, bits.used) FROM bits
        WHERE r.image_id = %s AND r.pack_id = bits.id"""
    with catalog.transaction() as connection:
        renew_lease(connection, image)
        connection.execute(query, ([pack for pack, _ in places], [position for _, position in places], image))


def drop_unused(connection: Connection, image: UUID) -> None:
    """Drop the references of an upload, whose manifests are all written and noted, that none of them needs."""
    connection.execute(
        """DELETE FROM refs USING packs WHERE refs.image_id = %s AND refs.used IS NULL
        AND packs.id = refs.pack_id AND packs.positions IS NOT NULL""",
        (image,),
    )


def finished_runs(catalog: Catalog, image: UUID, disk: int) -> list[Run]:
    """The finished runs of a disk in order."""
    query = """SELECT disk, first_chunk, chunk_count, new_size FROM runs
        WHERE image_id = %s AND disk = %s ORDER BY first_chunk"""
    return [Run(**row) for row in catalog.rows(query, (image, disk))]


def run_records(catalog: Catalog, image: UUID, disk: int) -> Iterator[tuple[int, bytes]]:
    """The first chunk and the record of every finished run in order, a few in memory at a time."""
    query = """SELECT first_chunk, record FROM runs WHERE image_id = %s AND disk = %s AND first_chunk > %s
        ORDER BY first_chunk LIMIT %s"""
    last, more = -1, True
    while more:
        rows = catalog.rows(query, (image, disk, last, _RECORDS))
        more = len(rows) == _RECORDS
        for row in rows:
            last = row["first_chunk"]
            yield last, row["record"]


def forget(connection: Connection, image: UUID) -> None:
    """Drop what only an unfinished upload needs: its lease and its runs."""
    connection.execute("DELETE FROM leases WHERE image_id = %s", (image,))
    connection.execute("DELETE FROM runs WHERE image_id = %s", (image,))


def release(connection: Connection, image: UUID) -> None:
    """Drop all that keeps an image's data: wraps of its data key first, then its references."""
    connection.execute("DELETE FROM wraps WHERE image_id = %s", (image,))
    connection.execute("DELETE FROM refs WHERE image_id = %s", (image,))
