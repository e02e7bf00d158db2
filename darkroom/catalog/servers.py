"""Rows of servers and of their disks; a volume is a disk with a name.

Who creates or deletes one writes itself into the row as its holder, on the host where that happens: so a holder that
died can be told at once, and whoever comes next goes on.
"""

from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from darkroom.catalog import Catalog, Connection, Row, uploads
from darkroom.errors import ConflictError, MissingError

_GIVEN_UP = "24 hours"


class ServerMissingError(MissingError):
    """No such server in the project."""

    code = "server-not-found"
    what = "there is no such server"
    default_remedy = "list the servers with `darkroom server list`"


class VolumeMissingError(MissingError):
    """No such volume in the project."""

    code = "volume-not-found"
    what = "there is no such volume"
    default_remedy = "list the volumes with `darkroom volume list`"


class ServerNameTakenError(ConflictError):
    """Another server or volume of the project has the name."""

    code = "server-name-taken"
    what = "another server or volume of the project has this name"
    default_remedy = "choose another name, or delete that one first"


class ServerBusyError(ConflictError):
    """Another process creates or deletes it."""

    code = "server-busy"
    what = "another process works on it"
    default_remedy = "wait for its end"


def insert(connection: Connection, table: str, columns: dict[str, Any]) -> UUID:
    """Insert a row, held by this process; return its id. Raises ServerNameTakenError."""
    columns = {**columns, "holder": uploads.holder()}
    values = [Jsonb(value) if isinstance(value, dict) else value for value in columns.values()]
    statement = sql.SQL("INSERT INTO {} ({}) VALUES ({}) RETURNING id").format(
        sql.Identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, columns)),
        sql.SQL(", ").join(sql.Placeholder() * len(columns)),
    )
    try:
        row = connection.execute(statement, values).fetchone()
    except psycopg.errors.UniqueViolation:
        raise ServerNameTakenError(str(columns.get("name") or columns.get("volume") or columns.get("target"))) from None
    assert row
    found: UUID = row["id"]
    return found


def hold(connection: Connection, table: str, row: Row) -> None:
    """Become the holder of a row, which is locked until the transaction ends; raises ServerBusyError."""
    query = sql.SQL("SELECT holder FROM {} WHERE id = %s FOR UPDATE").format(sql.Identifier(table))
    found = connection.execute(query, (row["id"],)).fetchone()
    if found and found["holder"] not in (None, uploads.holder()) and not uploads.is_dead(found["holder"]):
        raise ServerBusyError(row.get("name") or row.get("volume") or str(row["id"]))
    change(connection, table, row["id"], holder=uploads.holder())


def given_up(connection: Connection, table: str) -> list[Row]:
    """The rows whose creation or deletion nobody goes on with: the holder is dead since a day."""
    query = sql.SQL("SELECT * FROM {} WHERE status IN ('creating', 'deleting') AND created_at < now() - %s::interval")
    rows = connection.execute(query.format(sql.Identifier(table)), (_GIVEN_UP,)).fetchall()
    return [row for row in rows if row["holder"] is None or uploads.is_dead(row["holder"])]


def change(connection: Connection, table: str, row: UUID, **columns: Any) -> None:
    """Set columns of a row."""
    pairs = sql.SQL(", ").join(sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder()) for name in columns)
    statement = sql.SQL("UPDATE {} SET {} WHERE id = %s").format(sql.Identifier(table), pairs)
    connection.execute(statement, (*columns.values(), row))


def find_server(catalog: Catalog, reference: str) -> Row:
    """The server with this name or id; raises ServerMissingError."""
    return _find(catalog, "SELECT * FROM servers WHERE name = %(r)s OR id::text = %(r)s", reference, ServerMissingError)


def find_volume(catalog: Catalog, reference: str) -> Row:
    """The volume with this name or id; raises VolumeMissingError."""
    query = "SELECT * FROM server_disks WHERE volume = %(r)s OR (volume IS NOT NULL AND id::text = %(r)s)"
    return _find(catalog, query, reference, VolumeMissingError)


def _find(catalog: Catalog, query: str, reference: str, error: type[MissingError]) -> Row:
    with catalog.transaction() as connection:
        row = connection.execute(query.encode(), {"r": reference}).fetchone()
    if row is None:
        raise error(reference)
    return row


def disks(catalog: Catalog, server: UUID) -> list[Row]:
    """The disks of a server, attached volumes among them, in the order of their targets; a medium is the last."""
    query = "SELECT * FROM server_disks WHERE server_id = %s ORDER BY medium, length(target), target"
    with catalog.transaction() as connection:
        return connection.execute(query, (server,)).fetchall()


def listed(catalog: Catalog) -> list[Row]:
    """All servers of the project by name, each with how much of its disks it has."""
    query = """SELECT s.*, coalesce(sum(d.size), 0)::bigint AS size,
            coalesce(sum(CASE d.status WHEN 'whole' THEN d.size ELSE d.hydrated END), 0)::bigint AS hydrated,
            coalesce(bool_and(d.status = 'whole'), true) AS whole
        FROM servers s LEFT JOIN server_disks d ON d.server_id = s.id GROUP BY s.id ORDER BY s.name"""
    with catalog.transaction() as connection:
        return connection.execute(query).fetchall()


def volumes(catalog: Catalog) -> list[Row]:
    """All volumes of the project by name, each with the name of the server that has it."""
    query = """SELECT d.*, s.name AS server FROM server_disks d LEFT JOIN servers s ON s.id = d.server_id
        WHERE d.volume IS NOT NULL ORDER BY d.volume"""
    with catalog.transaction() as connection:
        return connection.execute(query).fetchall()


def readable(operator: Catalog, host: str, disk: UUID | None = None) -> list[Row]:
    """The lazy disks on a host, of all projects, or this one disk; each with its project's name.

    Only those with a hold on their image, which nobody gets who cannot see the image: a row alone opens nothing.
    """
    query = """SELECT d.*, p.name AS project FROM server_disks d JOIN projects p ON p.id = d.project_id
        WHERE d.host = %s AND (d.id = %s OR (%s::uuid IS NULL AND d.status = 'lazy')) AND EXISTS (SELECT FROM holds h
            WHERE h.holder = d.id AND h.image_id = d.image_id AND h.project_id = d.project_id)"""
    with operator.transaction() as connection:
        return connection.execute(query, (host, disk, disk)).fetchall()
