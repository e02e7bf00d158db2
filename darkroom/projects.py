"""Projects: who owns images. Only the operator, who holds the DSN of the schema's owner, makes them."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import conninfo, sql

from darkroom import rules
from darkroom.catalog import (
    OPERATOR,
    Catalog,
    ProjectForbiddenError,
    ProjectMissingError,
    Row,
    create_project,
)
from darkroom.errors import ConflictError


class ProjectExistsError(ConflictError):
    """A project of that name exists already."""

    code = "project-exists"
    what = "a project of that name exists already"


def create(operator: Catalog, name: str) -> None:
    """Make a project and the database role that acts for it; raises NameInvalidError, ProjectExistsError.

    The account of the operator cannot: ProjectForbiddenError.
    """
    rules.check_name(name)
    with operator.transaction() as connection:
        if connection.execute("SELECT 1 FROM projects WHERE name = %s", (name,)).fetchone():
            raise ProjectExistsError(name)
        with _as_owner():
            create_project(connection, name)
        connection.execute(
            """INSERT INTO events (project_id, operation, outcome)
            SELECT id, 'create-project', 'done' FROM projects WHERE name = %s""",
            (name,),
        )


def set_window(operator: Catalog, name: str, days: int) -> None:
    """Keep images that the project deletes from now on restorable for so many days; raises ProjectMissingError."""
    with operator.transaction() as connection:
        query = "UPDATE projects SET restore_window = make_interval(days => %s) WHERE name = %s"
        if not connection.execute(query, (days, name)).rowcount:
            raise ProjectMissingError(name)
        connection.execute(
            """INSERT INTO events (project_id, operation, outcome, reason)
            SELECT id, 'set-window', 'done', %s FROM projects WHERE name = %s""",
            (f"{days} days", name),
        )


def credentials(operator: Catalog, dsn: str, project: str) -> str:
    """The DSN of a project's own account of the catalog, or of the operator's if `project` is empty.

    The password is a new one and known to the caller alone: the server gets a verifier of it. Raises
    ProjectMissingError, ProjectForbiddenError.
    """
    password = secrets.token_urlsafe(32)
    with operator.transaction() as connection, _as_owner():
        row = connection.execute("SELECT role_name FROM projects WHERE name = %s", (project,)).fetchone()
        if project and row is None:
            raise ProjectMissingError(project)
        role = row["role_name"] if row else OPERATOR
        verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
        statement = sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}")
        connection.execute(statement.format(sql.Identifier(role), sql.Literal(verifier)))
        connection.execute(
            """INSERT INTO events (project_id, operation, outcome, reason)
            VALUES ((SELECT id FROM projects WHERE name = %s), 'credentials', 'done', %s)""",
            (project, role),
        )
    return conninfo.make_conninfo(dsn, user=role, password=password)


@contextmanager
def _as_owner() -> Iterator[None]:
    """What takes the account that owns the schema: to make roles."""
    try:
        yield
    except psycopg.errors.InsufficientPrivilege as error:
        reason = str(error).splitlines()[0]
        raise ProjectForbiddenError("roles", "the account that owns the schema", reason) from error


def listed(operator: Catalog) -> list[Row]:
    """All projects by name, each with its images that are not final and what their packs take, in bytes."""
    query = """
        SELECT p.name, p.created_at,
            (SELECT count(*) FROM images i
                WHERE i.project_id = p.id AND i.status NOT IN ('killed', 'deleted')) AS images,
            (SELECT coalesce(sum(k.size), 0)::bigint FROM packs k JOIN scopes s ON s.id = k.scope_id
                WHERE s.project_id = p.id AND k.status = 'stored') AS stored_size
        FROM projects p ORDER BY p.name"""
    with operator.transaction() as connection:
        return connection.execute(query).fetchall()
