"""Rebuild: from the store and the key manager alone, a catalog gets back what it does not have (any more).

Scopes come from their descriptions, packs and the chunk index from the packs' trailers, images and all that belongs to
them from their sidecars, references from the manifests. What the catalog has already stays as it is, so a rebuild that
was killed is run again. An image comes back in one transaction, after all packs; until the last one is back, the
collector refuses to run (`catalog-behind`).
"""

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from darkroom import collect, crypto, keys, manifest, packs, references, sidecar, systems
from darkroom.catalog import CatalogRefusedError, Connection, create_project, images
from darkroom.errors import ConflictError, DamagedError, DarkroomError, UnavailableError
from darkroom.store import Store
from darkroom.systems import Systems

Progress = Callable[[int, int], None]
_READERS = 8
_UUID = "([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
_KINDS = {
    "scope": re.compile(f"scopes/{_UUID}/scope[.]json"),
    "pack": re.compile(f"scopes/{_UUID}/packs/[0-9a-f]{{2}}/{_UUID}"),
    "image": re.compile(f"images/{_UUID}/image[.]json"),
}

# The tables whose rows go with an image. Of any other, such as that of hosts, a sidecar has nothing to say: the store
# is not trusted, and this runs as the schema's owner.
_BELONGING = """
    SELECT t.relname AS name, a.attname AS id FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid
    JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
    WHERE c.confrelid = 'images'::regclass AND c.contype = 'f' AND c.confdeltype = 'c'
        AND t.relname NOT IN ('images', 'refs', 'leases', 'runs', 'sidecars')
    ORDER BY t.relname"""


class ScopeTakenError(ConflictError):
    """The catalog has another scope for a project and key: it was used since it was lost."""

    code = "scope-taken"
    what = "the catalog was used since it was lost, and has another scope for this project and key"
    default_remedy = "rebuild into an empty catalog, and import again what was imported since"


@dataclass(slots=True)
class _Found:
    """What the store has, by ids."""

    scopes: list[UUID] = field(default_factory=list)
    packs: list[tuple[UUID, UUID]] = field(default_factory=list)
    """Scope and pack."""
    images: list[UUID] = field(default_factory=list)


def rebuild(to: Systems, progress: Progress) -> dict[str, Any]:
    """Add to the catalog, as the schema's owner, all that the store has and it does not; return counts and findings.

    A finding is what did not come back whole, such as an image whose manifest is not the one that was written. Raises
    CollectingError, ScopeTakenError, and UnavailableError of store and key manager; then the next call goes on.
    """
    with collect.alone(to.catalog):
        found = _look(to.store)
        findings: list[str] = []
        scopes = {}
        for scope in found.scopes:
            try:
                scopes[scope] = _add_scope(to, scope)
            except DamagedError as error:
                findings.append(str(error))
        total = len(found.packs) + len(found.images)
        wanted = _missing_packs(to, [entry for entry in found.packs if entry[0] in scopes])
        for number, (entry, trailer) in enumerate(_trailers(to.store, wanted, findings)):
            with to.catalog.transaction() as connection:
                _add_pack(connection, scopes[entry[0]], entry[1], trailer)
            progress(number + 1, total)
        added = 0
        for number, image in enumerate(found.images):
            try:
                added += _add_image(to, image, findings)
            except DamagedError as error:
                findings.append(str(error))
            progress(len(found.packs) + number + 1, total)
        result = {"scopes": len(scopes), "packs": len(wanted), "images": added, "findings": findings}
        with to.catalog.transaction() as connection:
            images.record_event(connection, "rebuild", None, "done", json.dumps(result))
    return result


def _look(store: Store) -> _Found:
    found = _Found()
    for key, _ in store.list(""):
        if match := _KINDS["pack"].fullmatch(key):
            found.packs.append((UUID(match[1]), UUID(match[2])))
        elif match := _KINDS["scope"].fullmatch(key):
            found.scopes.append(UUID(match[1]))
        elif match := _KINDS["image"].fullmatch(key):
            found.images.append(UUID(match[1]))
    return found


def _add_scope(to: Systems, scope: UUID) -> int:
    """The row of a scope, made with its project from its description if it is not there; raises ScopeTakenError."""
    with to.catalog.transaction() as connection:
        row = connection.execute("SELECT id FROM scopes WHERE uuid = %s", (scope,)).fetchone()
        if row is None:
            project, key, wrapped = _described(to.store, scope)
            row = connection.execute(
                """INSERT INTO scopes (uuid, project_id, key_name, wrapped_secret) VALUES (%s, %s, %s, %s)
                ON CONFLICT DO NOTHING RETURNING id""",
                (scope, _project(connection, project), key, wrapped),
            ).fetchone()
    if row is None:
        raise ScopeTakenError(str(scope))
    number: int = row["id"]
    return number


def _described(store: Store, scope: UUID) -> tuple[str, str | None, bytes | None]:
    """Project, key name and wrapped secret of a scope, by its description."""
    key = f"scopes/{scope}/scope.json"
    try:
        found = json.loads(store.get(key))
        return found["project"], found["key"], _bytes(found["wrapped_secret"]) or None
    except (ValueError, KeyError, TypeError):
        raise sidecar.SidecarInvalidError(key, "the description of a scope", "other bytes") from None


def _project(connection: Connection, name: str) -> UUID:
    """The id of the project of a name, made if it is not there: ids are the catalog's own, names are for ever."""
    try:
        create_project(connection, name)
    except psycopg.errors.InsufficientPrivilege as error:
        raise CatalogRefusedError("rebuild", "the account of the schema's owner", str(error)) from None
    row = connection.execute("SELECT id FROM projects WHERE name = %s", (name,)).fetchone()
    assert row
    project: UUID = row["id"]
    return project


def _missing_packs(to: Systems, found: Sequence[tuple[UUID, UUID]]) -> list[tuple[UUID, UUID]]:
    with to.catalog.transaction() as connection:
        known = {row["uuid"] for row in connection.execute("SELECT uuid FROM packs")}
    return [entry for entry in found if entry[1] not in known]


Trailer = list[tuple[bytes, int, int]]


def _trailers(
    store: Store, wanted: Sequence[tuple[UUID, UUID]], findings: list[str]
) -> Iterator[tuple[tuple[UUID, UUID], Trailer | None]]:
    """The trailers of packs, read by several threads, in order; None for a damaged one, which is a finding."""

    def read(entry: tuple[UUID, UUID]) -> Trailer | None:
        try:
            return packs.read_trailer(store, *entry)
        except DamagedError as error:
            findings.append(str(error))
            return None

    with ThreadPoolExecutor(_READERS, "trailer") as pool:
        for start in range(0, len(wanted), 64):
            part = wanted[start : start + 64]
            yield from zip(part, pool.map(read, part), strict=True)


def _add_pack(connection: Connection, scope: int, pack: UUID, trailer: Trailer | None) -> None:
    """The row of a pack and its chunks; one whose trailer is damaged has no known chunks, and is kept all the same."""
    positions = [position for _, position, _ in trailer] if trailer is not None else None
    size = sum(length for _, _, length in trailer or [])
    row = connection.execute(
        """INSERT INTO packs (uuid, scope_id, status, size, positions) VALUES (%s, %s, 'stored', %s, %s)
        ON CONFLICT DO NOTHING RETURNING id""",
        (pack, scope, size, positions),
    ).fetchone()
    if row and trailer:
        connection.execute(
            """INSERT INTO chunks SELECT %s, c.id, %s, c.position, c.length
            FROM unnest(%s::bytea[], %s::integer[], %s::integer[]) AS c (id, position, length)
            ON CONFLICT DO NOTHING""",
            (scope, row["id"], *(list(column) for column in zip(*trailer, strict=True))),
        )


def _add_image(to: Systems, image: UUID, findings: list[str]) -> int:
    """Bring one image back, unless it is there; return how many were. Raises DamagedError for an unreadable sidecar."""
    with to.catalog.transaction() as connection:
        if connection.execute("SELECT FROM images WHERE id = %s", (image,)).rowcount:
            return 0
        record = _mapped(connection, sidecar.read(to.store, image))
        scope = connection.execute("SELECT id, uuid FROM scopes WHERE uuid = %s", (record["scope"],)).fetchone()
        if scope is None:
            raise sidecar.SidecarInvalidError(str(image), "a scope with a description", f"scope {record['scope']}")
        data_key, trusted = _opened(to, record, findings)
        _insert_rows(connection, record, scope["id"], trusted, findings)
        for disk in record["disks"]:
            try:
                digest = _bytes(disk["manifest_digest"]) or None
                table = manifest.read(to.store, image, disk["number"], digest)
                if digest is None:
                    raise manifest.ManifestInvalidError(f"image {image} disk {disk['number']}", "its own", "another")
                references.refer(connection, to.store, table, scope["id"], data_key)
            except DamagedError as error:
                findings.append(f"{error}; all packs of its scope are kept for it")
                references.refer_to_all(connection, image, scope["id"])
        sidecar.write(to, connection, image)
    return 1


def _mapped(connection: Connection, record: dict[str, Any]) -> dict[str, Any]:
    """The record with the catalog's ids of the projects that it mentions."""
    text = json.dumps(record)
    for old, name in record["projects"].items():
        text = text.replace(old, str(_project(connection, name)))
    mapped: dict[str, Any] = json.loads(text)
    return mapped


def _opened(to: Systems, record: dict[str, Any], findings: list[str]) -> tuple[bytes | None, bool]:
    """The data key of an image, and whether its manifests are proved to be its own; b"" and true for a plain one.

    None where the key cannot be had, which is a finding. Raises UnavailableError.
    """
    image = record["image"]
    if image["key_name"] is None:
        return b"", True
    wraps = [wrap for wrap in record["wraps"] if wrap["project_id"] == image["project_id"]]
    manager = keys.open_keys(to.keys.url, dataclasses.replace(to.settings, project=record["project"]))
    try:
        context = systems.data_key_context(record["project"], UUID(image["id"]))
        data_key = manager.unwrap(wraps[0]["key_name"], _bytes(wraps[0]["wrapped"]), context)
    except (DarkroomError, IndexError) as error:
        if isinstance(error, UnavailableError):
            raise
        findings.append(f"image {image['id']}: deactivated, since its data key cannot be had ({error or 'no wrap'})")
        return None, False
    for disk in record["disks"]:
        mac = crypto.manifest_mac(data_key, UUID(image["id"]), disk["number"], _bytes(disk["manifest_digest"]))
        if mac != _bytes(disk["manifest_mac"]):
            findings.append(
                f"image {image['id']}: deactivated, since disk {disk['number']} is not proved to be its own"
            )
            disk["manifest_digest"] = None
    return data_key, all(disk["manifest_digest"] for disk in record["disks"])


def _bytes(text: str | None) -> bytes:
    """A bytea as JSON has it."""
    return bytes.fromhex((text or "").removeprefix("\\x"))


def _insert_rows(
    connection: Connection, record: dict[str, Any], scope: int, trusted: bool, findings: list[str]
) -> None:
    """The image's row, and those of the tables that belong to it; what is not trusted comes back deactivated."""
    row = {**record["image"], "scope_id": scope}
    if not trusted:
        row["deleted_from" if row["status"] == "deleted" else "status"] = "deactivated"
    same = "SELECT FROM images WHERE project_id = %s AND name = %s AND status NOT IN ('killed', 'deleted')"
    if row["status"] != "deleted" and connection.execute(same, (row["project_id"], row["name"])).rowcount:
        row["name"] = f"{row['name'][:100]}-{row['id'][:8]}"
        findings.append(f"image {row['id']}: named {row['name']}, since another one has its name")
    _insert(connection, "images", row)
    for table in connection.execute(_BELONGING).fetchall():
        for one in record.get(table["name"], []):
            _insert(connection, table["name"], {**one, table["id"]: row["id"]})


def _insert(connection: Connection, table: str, row: dict[str, Any]) -> None:
    """Insert a row of JSON; columns that the table does not have (any more) are left out."""
    query = """SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0
        AND NOT attisdropped AND attgenerated = ''"""
    columns = [one["attname"] for one in connection.execute(query, (table,)) if one["attname"] in row]
    if columns:
        names = sql.SQL(", ").join(map(sql.Identifier, columns))
        statement = sql.SQL(
            "INSERT INTO {table} ({names}) SELECT {names} FROM jsonb_populate_record(NULL::{table}, %s)"
        )
        connection.execute(statement.format(table=sql.Identifier(table), names=names), (json.dumps(row),))
