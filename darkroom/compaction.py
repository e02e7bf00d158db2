"""Compaction: the live chunks of packs that are mostly dead are copied, as they are stored, into new packs.

A chunk is live if a manifest names it, which the references of images tell (`refs.used`): no data key is needed, and no
manifest is written again, since a chunk is looked for in the index where it is not at the place that a manifest gives.
For that, two things always hold: the index has every live chunk, and who needs a chunk refers to the pack in which the
index has it. A pack that an unfinished image refers to is left alone: what it needs is not known yet.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

import psycopg

from darkroom import packs
from darkroom.catalog import CatalogUnavailableError, Connection
from darkroom.errors import DamagedError
from darkroom.model import Buffer
from darkroom.store import Store
from darkroom.systems import Systems

Bury = Callable[[Systems, Sequence[UUID]], set[UUID]]

_LIVE = 0.5
"""A pack of whose bytes no more than this part is live is compacted."""


@dataclass(frozen=True, slots=True)
class Sparse:
    """A stored pack with dead chunks: its row, owner, the offsets of its chunks, and which of these are live."""

    row: int
    id: UUID
    scope_row: int
    scope: UUID
    project: str
    positions: tuple[int, ...]
    size: int
    live: str
    """A digit for each chunk in order: 1 if it is live."""

    @property
    def live_size(self) -> int:
        """Bytes of its live chunks."""
        ends = (*self.positions[1:], self.size)
        return sum(e - p for p, e, used in zip(self.positions, ends, self.live, strict=True) if used == "1")

    @property
    def dead_size(self) -> int:
        """Bytes that compaction frees."""
        return self.size - self.live_size


class _ChangedError(Exception):
    """An import or a purge was faster: the pack is left to the next collection."""


_SPARSE = """SELECT p.id AS row, p.uuid AS id, p.scope_id AS scope_row, s.uuid AS scope, j.name AS project,
        p.positions, p.size, bit_or(r.used)::text AS live
    FROM packs p JOIN refs r ON r.pack_id = p.id JOIN images i ON i.id = r.image_id
    JOIN scopes s ON s.id = p.scope_id JOIN projects j ON j.id = s.project_id
    WHERE p.status = 'stored' AND p.positions IS NOT NULL AND (%(packs)s::bigint[] IS NULL OR p.id = ANY(%(packs)s))
    GROUP BY p.id, s.uuid, j.name
    HAVING bool_and(r.used IS NOT NULL AND i.status IN ('active', 'deactivated', 'deleted'))
        AND bit_count(bit_or(r.used)) < cardinality(p.positions)
    ORDER BY p.scope_id, p.id"""


def find(connection: Connection, among: Sequence[int] | None = None) -> list[Sparse]:
    """The packs worth compacting, of all or `among` some by their rows."""
    rows = connection.execute(_SPARSE, {"packs": None if among is None else list(among)})
    found = (Sparse(**{**row, "positions": tuple(row["positions"])}) for row in rows)
    return [pack for pack in found if pack.live_size <= _LIVE * pack.size]


@dataclass(frozen=True, slots=True)
class _Live:
    """A live chunk: the row of its pack, its number and place there, and its id."""

    row: int
    number: int
    id: bytes
    position: int
    length: int


def compact(to: Systems, sparse: Sequence[Sparse], bury: Bury) -> tuple[list[Sparse], list[str]]:
    """Compact packs; return those that are gone, and what was found damaged on the way and left alone."""
    gone: list[Sparse] = []
    damaged: list[str] = []
    for group in _groups(sparse):
        copy = packs.Pack(group[0].scope)
        try:
            _compact(to, group, copy)
            gone.extend(group)
        except DamagedError as error:
            damaged.append(str(error))
        except _ChangedError:
            pass
        bury(to, [copy.id, *(pack.id for pack in group)])  # whichever of them nothing refers to now
    return gone, damaged


def _compact(to: Systems, group: Sequence[Sparse], copy: packs.Pack) -> None:
    """Row, object, and then at once: the index and the references point to the copy, and the group is dead."""
    live = {pack: _live(to.store, pack) for pack in group}
    rows = [pack.row for pack in group]
    with to.catalog.transaction() as connection:
        others = _elsewhere(connection, group, live)
        query = "INSERT INTO packs (uuid, scope_id) VALUES (%s, %s)"
        connection.execute(query, (copy.id, group[0].scope_row))
    _copy(to.store, live, others.keys(), copy)
    try:
        with to.catalog.transaction() as connection:
            connection.execute("SET LOCAL lock_timeout = '500ms'")  # sooner than a deadlock is looked for
            _lock(connection, rows)
            now = {(pack.id, pack.live) for pack in find(connection, rows)}
            if now != {(pack.id, pack.live) for pack in group} or _elsewhere(connection, group, live) != others:
                raise _ChangedError
            _switch(connection, group, live, others, copy)
    except CatalogUnavailableError as error:
        if isinstance(error.__cause__, psycopg.errors.LockNotAvailable):
            raise _ChangedError from None
        raise


def _groups(sparse: Sequence[Sparse]) -> Iterator[list[Sparse]]:
    """Packs of one scope whose live chunks fill a new one."""
    group: list[Sparse] = []
    size = count = 0
    for pack in sparse:
        live = pack.live.count("1")
        full = size + pack.live_size > packs.TARGET_SIZE or count + live > packs.MAX_CHUNKS
        if group and (full or group[0].scope != pack.scope):
            yield group
            group, size, count = [], 0, 0
        group.append(pack)
        size, count = size + pack.live_size, count + live
    if group:
        yield group


def _live(store: Store, pack: Sparse) -> list[_Live]:
    entries = packs.read_trailer(store, pack.scope, pack.id)
    if tuple(position for _, position, _ in entries) != pack.positions:
        raise packs.PackInvalidError(packs.object_key(pack.scope, pack.id), "the chunks in the catalog", "others")
    return [_Live(pack.row, number, *entry) for number, entry in enumerate(entries) if pack.live[number] == "1"]


def _elsewhere(
    connection: Connection, group: Sequence[Sparse], live: dict[Sparse, list[_Live]]
) -> dict[bytes, tuple[int, int]]:
    """Where the index has those live chunks that it does not have in the group: row of the pack, position.

    Two imports at once can bring the same chunk, and the index has one of the two. Such a pack is locked until the
    transaction ends, so that it does not go away meanwhile.
    """
    ids = [chunk.id for chunks in live.values() for chunk in chunks]
    query = """SELECT c.chunk_id, c.pack_id, c.position FROM chunks c JOIN packs p ON p.id = c.pack_id
        WHERE p.status = 'stored' AND c.scope_id = %s AND c.chunk_id = ANY(%s) AND NOT c.pack_id = ANY(%s)
        FOR KEY SHARE OF p SKIP LOCKED"""
    rows = connection.execute(query, (group[0].scope_row, ids, [pack.row for pack in group]))
    return {row["chunk_id"]: (row["pack_id"], row["position"]) for row in rows}


def _copy(store: Store, live: dict[Sparse, list[_Live]], others: Collection[bytes], copy: packs.Pack) -> None:
    """Write the copy, each chunk once, and compare it with the originals, both read anew."""
    wanted: dict[Sparse, list[_Live]] = {}
    seen = set(others)
    for pack, chunks in live.items():
        wanted[pack] = [chunk for chunk in chunks if chunk.id not in seen]
        seen.update(chunk.id for chunk in chunks)
    for chunk, stored in _read(store, wanted):
        copy.add(chunk.id, stored)
    parts = copy.encode()
    key = packs.object_key(copy.scope, copy.id)
    store.put(key, parts, sum(map(len, parts)))
    written = memoryview(store.get(key))
    for (_, position, length), (_, stored) in zip(copy.entries, _read(store, wanted), strict=True):
        if written[position : position + length] != stored:
            raise packs.PackInvalidError(key, "the bytes of the packs that it replaces", "others")


def _read(store: Store, wanted: dict[Sparse, list[_Live]]) -> Iterator[tuple[_Live, Buffer]]:
    """Yield the chunks as they are stored, those that lie next to each other by one request."""
    for pack, chunks in wanted.items():
        key = packs.object_key(pack.scope, pack.id)
        for start, end in _ranges(chunks):
            stored = memoryview(store.get(key, start, end - start))
            for chunk in chunks:
                if start <= chunk.position < end:
                    yield chunk, stored[chunk.position - start : chunk.position - start + chunk.length]


def _ranges(chunks: Sequence[_Live]) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for chunk in chunks:
        end = chunk.position + chunk.length
        if ranges and ranges[-1][1] == chunk.position:
            ranges[-1] = (ranges[-1][0], end)
        else:
            ranges.append((chunk.position, end))
    return ranges


def _lock(connection: Connection, rows: Sequence[int]) -> None:
    """Lock the packs against new references, and the images that refer to them against their end.

    Nothing is waited for, since who is waited for could be waiting for us: raises _ChangedError.
    """
    locked = "SELECT id FROM packs WHERE id = ANY(%s) AND status = 'stored' ORDER BY id FOR UPDATE SKIP LOCKED"
    if connection.execute(locked, (list(rows),)).rowcount != len(rows):
        raise _ChangedError
    users = "SELECT DISTINCT image_id FROM refs WHERE pack_id = ANY(%s)"
    images = [row["image_id"] for row in connection.execute(users, (list(rows),))]
    locked = "SELECT id FROM images WHERE id = ANY(%s) ORDER BY id FOR KEY SHARE SKIP LOCKED"
    if connection.execute(locked, (images,)).rowcount != len(images):
        raise _ChangedError


def _switch(
    connection: Connection,
    group: Sequence[Sparse],
    live: dict[Sparse, list[_Live]],
    others: dict[bytes, tuple[int, int]],
    copy: packs.Pack,
) -> None:
    rows = [pack.row for pack in group]
    ids, positions, lengths = zip(*copy.entries, strict=True) if copy.entries else ((), (), ())
    stored = "UPDATE packs SET status = 'stored', size = %s, positions = %s WHERE uuid = %s RETURNING id"
    new = connection.execute(stored, (copy.size, list(positions), copy.id)).fetchone()
    assert new
    indexed = connection.execute(
        """INSERT INTO chunks SELECT %s, n.id, %s, n.position, n.length
        FROM unnest(%s::bytea[], %s::integer[], %s::integer[]) AS n (id, position, length)
        ON CONFLICT (scope_id, chunk_id) DO UPDATE SET pack_id = excluded.pack_id, position = excluded.position
        WHERE chunks.pack_id = ANY(%s)""",
        (group[0].scope_row, new["id"], list(ids), list(positions), list(lengths), rows),
    )
    if indexed.rowcount != len(ids):
        raise _ChangedError
    places = {**others, **{chunk: (new["id"], position) for chunk, position in zip(ids, positions, strict=True)}}
    moves = [(c.row, c.number, *places[c.id]) for chunks in live.values() for c in chunks]
    connection.execute(_FOLLOW, [list(column) for column in zip(*moves, strict=True)] or [[]] * 4)
    connection.execute("DELETE FROM refs WHERE pack_id = ANY(%s)", (rows,))
    connection.execute("DELETE FROM chunks WHERE pack_id = ANY(%s)", (rows,))
    connection.execute("UPDATE packs SET status = 'dead' WHERE id = ANY(%s)", (rows,))


# Who uses a chunk that has moved refers to the pack in which it is now.
_FOLLOW = """
    WITH moved AS (
        SELECT * FROM unnest(%s::bigint[], %s::integer[], %s::bigint[], %s::integer[])
            AS m (pack, number, target, position)
    ), needed AS (
        SELECT DISTINCT r.image_id, m.target, m.position FROM refs r
        JOIN moved m ON m.pack = r.pack_id AND get_bit(r.used, m.number) = 1
    ), bits AS (
        SELECT t.image_id, p.id, string_agg(
            CASE WHEN e.number IS NOT NULL THEN (n.image_id IS NOT NULL)::int::text END, '' ORDER BY e.number
        )::bit varying AS used
        FROM (SELECT DISTINCT image_id, target FROM needed) t JOIN packs p ON p.id = t.target
        LEFT JOIN unnest(p.positions) WITH ORDINALITY AS e (position, number) ON true
        LEFT JOIN needed n ON n.image_id = t.image_id AND n.target = t.target AND n.position = e.position
        GROUP BY t.image_id, p.id
    )
    INSERT INTO refs (image_id, pack_id, used) SELECT image_id, id, used FROM bits
    ON CONFLICT (image_id, pack_id) DO UPDATE SET used = refs.used | excluded.used"""
