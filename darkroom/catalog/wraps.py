"""Wrapped keys in the catalog, and what keeps them in step with the key manager.

A rotation makes a new version of a key, re-wraps all that is under it, and destroys the old version. Whoever wraps
something to keep it, or unwraps what is kept, holds the project's keys for the transaction in which the wrap is written
or read; a rotation holds them alone while the version changes. So nothing comes under an old version, or is read under
one that has gone, behind its back.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg import sql

from darkroom.catalog import Connection, Row

_LOCK = "hashtextextended('darkroom keys ' || current_project()::text, 0)"
_OURS = sql.SQL("project_id = current_project() AND key_name = %s")


def hold(connection: Connection) -> None:
    """Hold the project's keys as they are until the transaction ends, beside others that do."""
    connection.execute(f"SELECT pg_advisory_xact_lock_shared({_LOCK})".encode())


def hold_alone(connection: Connection) -> None:
    """Hold them with nobody else; waits for those that hold them."""
    connection.execute(f"SELECT pg_advisory_xact_lock({_LOCK})".encode())


def of_image(connection: Connection, image: UUID) -> Row | None:
    """The project's own wrap of the image's data key."""
    query = "SELECT key_name, wrapped FROM wraps WHERE image_id = %s AND project_id = current_project()"
    return connection.execute(query, (image,)).fetchone()


def insert(connection: Connection, image: UUID, key_name: str, wrapped: bytes) -> None:
    """Add the project's wrap of the image's data key, unless there is one."""
    connection.execute(
        "INSERT INTO wraps (image_id, key_name, wrapped) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
        (image, key_name, wrapped),
    )


def replace(connection: Connection, image: UUID, key_name: str, wrapped: bytes) -> None:
    """Put a wrap in place of the project's wrap of the image's data key, which goes."""
    connection.execute("DELETE FROM wraps WHERE image_id = %s AND project_id = current_project()", (image,))
    insert(connection, image, key_name, wrapped)


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A table whose rows hold a wrapped key, with columns `project_id` and `key_name`.

    `identity` is the column that names a row, a uuid; `wrapped` the one with the wrap. `context` gives the encryption
    context of a row's wrap, from the project's name and the identity.
    """

    table: str
    identity: str
    wrapped: str
    context: Callable[[str, UUID], dict[str, str]]

    def count(self, connection: Connection, key_name: str, version: bytes) -> int:
        """How many rows of the project are under a key and not under this version, which is how its wraps begin."""
        query = sql.SQL("SELECT count(*) AS n FROM {} WHERE {}").format(sql.Identifier(self.table), self._behind())
        row = connection.execute(query, (key_name, version, version)).fetchone()
        assert row
        number: int = row["n"]
        return number

    def batch(self, connection: Connection, key_name: str, version: bytes, size: int) -> list[Row]:
        """So many of those rows, locked; each as `identity` and `wrapped`."""
        query = sql.SQL("SELECT {} AS identity, {} AS wrapped FROM {} WHERE {} ORDER BY 1 LIMIT %s FOR UPDATE").format(
            *map(sql.Identifier, (self.identity, self.wrapped, self.table)), self._behind()
        )
        return connection.execute(query, (key_name, version, version, size)).fetchall()

    def _behind(self) -> sql.Composable:
        # A row without a wrap is not behind: the comparison is null.
        begins = sql.SQL("substring({} FOR octet_length(%s)) <> %s").format(sql.Identifier(self.wrapped))
        return sql.SQL("{} AND {}").format(_OURS, begins)

    def store(self, connection: Connection, key_name: str, changed: Iterator[tuple[UUID, bytes]]) -> None:
        """Write new wraps in place of those of these rows."""
        query = sql.SQL("UPDATE {} SET {} = %s WHERE {} AND {} = %s").format(
            *map(sql.Identifier, (self.table, self.wrapped)), _OURS, sql.Identifier(self.identity)
        )
        values: list[tuple[Any, ...]] = [(wrapped, key_name, identity) for identity, wrapped in changed]
        with connection.cursor() as cursor:
            cursor.executemany(query, values)
