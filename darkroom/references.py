"""The references of a rebuilt image on packs, found from its manifests: what the collector must leave."""

from uuid import UUID

from darkroom import manifest
from darkroom.catalog import Connection
from darkroom.manifest import Manifest
from darkroom.store import Store


def refer(connection: Connection, store: Store, table: Manifest, scope: int, data_key: bytes | None) -> None:
    """References on all packs that a disk needs: where its manifest says, or where a chunk is now if it has moved.

    Without the data key, on all packs that the manifest lists. Raises ManifestInvalidError where something is missing.
    """
    which = f"image {table.image} disk {table.disk}"
    if data_key is None:
        if not _refer_to_listed(connection, table):
            raise manifest.ManifestInvalidError(which, "pages to read", "sealed ones")
        return
    lost = 0
    for number in range(len(table.pages)):
        refs = manifest.read_page(store, table, number, data_key)
        places = [[ref.pack for ref in refs], [ref.offset for ref in refs]]
        ids = [table.scope.chunk_id(ref.digest) for ref in refs]
        row = connection.execute(_REFER, (*places, ids, scope, table.image)).fetchone()
        lost += row["lost"] if row else 0
    if lost:
        raise manifest.ManifestInvalidError(which, "all chunks", f"{lost} missing")


# A chunk is where the manifest says if there is a pack that lists it there, or not even a trailer to tell; else where
# the index has it.
_REFER = """
    WITH named AS (
        SELECT * FROM unnest(%s::uuid[], %s::integer[], %s::bytea[]) AS n (pack, position, id)
    ), placed AS (
        SELECT DISTINCT n.id, coalesce(p.id, c.pack_id) AS pack,
            CASE WHEN p.id IS NULL THEN c.position ELSE n.position END AS position
        FROM named n
        LEFT JOIN packs p ON p.uuid = n.pack AND (p.positions IS NULL OR n.position = ANY(p.positions))
        LEFT JOIN chunks c ON p.id IS NULL AND c.scope_id = %s AND c.chunk_id = n.id
    ), bits AS (
        SELECT p.id, string_agg(
            CASE WHEN e.number IS NOT NULL THEN (u.pack IS NOT NULL)::int::text END, '' ORDER BY e.number
        )::bit varying AS used
        FROM packs p LEFT JOIN unnest(p.positions) WITH ORDINALITY AS e (position, number) ON true
        LEFT JOIN (SELECT DISTINCT pack, position FROM placed) u ON u.pack = p.id AND u.position = e.position
        WHERE p.id IN (SELECT pack FROM placed) GROUP BY p.id
    ), referred AS (
        INSERT INTO refs (image_id, pack_id, used) SELECT %s, id, used FROM bits
        ON CONFLICT (image_id, pack_id) DO UPDATE SET used = refs.used | excluded.used
    )
    SELECT count(*) AS lost FROM placed WHERE pack IS NULL"""


def _refer_to_listed(connection: Connection, table: Manifest) -> bool:
    """References on the packs that a manifest lists, whatever it uses of them; whether all of them are there still."""
    query = "INSERT INTO refs (image_id, pack_id) SELECT %s, id FROM packs WHERE uuid = ANY(%s) ON CONFLICT DO NOTHING"
    connection.execute(query, (table.image, list(table.packs)))
    known = connection.execute("SELECT FROM packs WHERE uuid = ANY(%s)", (list(table.packs),)).rowcount
    return known == len(table.packs)


def refer_to_all(connection: Connection, image: UUID, scope: int) -> None:
    """For an image whose pages cannot be read: nothing of its scope may go away, or move."""
    connection.execute(
        """INSERT INTO refs (image_id, pack_id) SELECT %s, id FROM packs WHERE scope_id = %s
        ON CONFLICT (image_id, pack_id) DO UPDATE SET used = NULL""",
        (image, scope),
    )
