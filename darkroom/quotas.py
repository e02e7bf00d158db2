"""Quotas: how much a project may have. The database keeps them (0014_quotas.sql); here they are set and shown."""

from collections.abc import Mapping
from uuid import UUID

from psycopg import sql

from darkroom.catalog import Catalog, Connection, ProjectMissingError

QUOTAS = ("images", "virtual_size", "stored_size", "operations", "members")
MEMBERS = 256
"""The most members of one image where no quota says otherwise, as in the database."""

Figures = dict[str, dict[str, int | None]]


def change(operator: Catalog, project: str, limits: Mapping[str, int | None]) -> None:
    """Set the quotas that are named, None for no limit; what is in use stays. Raises ProjectMissingError."""
    with operator.transaction() as connection:
        found = _project(connection, project)
        connection.execute("INSERT INTO quotas (project_id) VALUES (%s) ON CONFLICT DO NOTHING", (found,))
        for name, limit in limits.items():
            query = sql.SQL("UPDATE quotas SET {} = %s WHERE project_id = %s").format(sql.Identifier(name))
            connection.execute(query, (limit, found))
        said = ", ".join(f"{name} {'unlimited' if limit is None else limit}" for name, limit in limits.items())
        connection.execute(
            "INSERT INTO events (project_id, operation, outcome, reason) VALUES (%s, 'set-quota', 'done', %s)",
            (found, said),
        )


def shown(catalog: Catalog, project: str) -> Figures:
    """Each quota of a project with its `use` and `quota`, None where there is no limit. Raises ProjectMissingError.

    For the operator and the project itself.
    """
    with catalog.transaction() as connection:
        found = _project(connection, project)
        used = connection.execute("SELECT * FROM usage(%s)", (found,)).fetchone() or {}
        most = connection.execute("SELECT * FROM quotas WHERE project_id = %s", (found,)).fetchone() or {}
        query = """SELECT count(*) AS n FROM members m JOIN images i ON i.id = m.image_id
            WHERE i.project_id = %s GROUP BY m.image_id ORDER BY 1 DESC LIMIT 1"""
        members = connection.execute(query, (found,)).fetchone()
    used["members"] = members["n"] if members else 0
    limits = {name: most.get(name) for name in QUOTAS}
    limits["members"] = MEMBERS if limits["members"] is None else limits["members"]
    return {name: {"use": used[name], "quota": limits[name]} for name in QUOTAS}


def _project(connection: Connection, name: str) -> UUID:
    row = connection.execute("SELECT id FROM projects WHERE name = %s", (name,)).fetchone()
    if row is None:
        raise ProjectMissingError(name)
    found: UUID = row["id"]
    return found
