"""The catalog: Postgres tables that are the truth about images, and the lock for all that is shared.

A `Catalog` acts as one project, under its role, or as the operator. The modules beside this one hold plain
functions, one transaction each: `images` (rows and status), `uploads` (leases, dedup, packs, resume).
"""

import os
import pwd
import select
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary

import psycopg
from psycopg import conninfo, sql
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool, PoolTimeout

from darkroom.errors import DarkroomError, MissingError, RefusedError, UnavailableError

Row = dict[str, Any]
Connection = psycopg.Connection[Row]
_noted: WeakKeyDictionary[Connection, list[Row]] = WeakKeyDictionary()
DEFAULT_PROJECT = "default"
OPERATOR = "darkroom_operator"
"""The role of the operator, beside the owner of the schema."""
_SCHEMA = "darkroom"
_MIGRATION_LOCK = 0x64726B72  # "drkr"
_CONNECT_TIMEOUT = 5
_POOL_TIMEOUT = 10.0
_POOL_SIZE = 8
_OVER_QUOTA = "DK001"  # 0014_quotas.sql
_NAME_LIMIT = 63  # Postgres keeps no longer names


class CatalogUnavailableError(UnavailableError):
    """The catalog does not answer, or went away in the middle; what was committed stays."""

    code = "catalog-unavailable"
    what = "the catalog does not answer"


class CatalogRefusedError(DarkroomError):
    """The catalog answers, but not to us: wrong password, no such database, too few rights."""

    code = "catalog-refused"
    what = "the catalog refuses the connection"
    default_remedy = "check DARKROOM_CATALOG_URL"
    exit_code = 6


class ProjectMissingError(MissingError):
    """There is no such project."""

    code = "project-not-found"
    what = "there is no such project"


class ProjectForbiddenError(CatalogRefusedError):
    """The account of the catalog is a project's own, and this is another project, or the operator's to do."""

    code = "project-forbidden"
    what = "this account of the catalog cannot act so"
    default_remedy = "leave out --project and DARKROOM_PROJECT, or use an account that may: DARKROOM_CATALOG_URL"


class QuotaError(RefusedError):
    """The project may not have more of something: images, bytes, operations at a time, members of an image."""

    code = "quota"
    what = "this is more than the project's quota allows"
    default_remedy = "delete what is not needed, or ask the operator: `darkroom project quota`"


class Catalog:
    """Connections to the catalog under one role; a context manager."""

    def __init__(self, dsn: str, project: str | None) -> None:
        """Open as `project`, or as the operator if None; "" is the account's own project, or else `default`.

        `dsn` names the account that owns the schema, or may create it: it migrates the schema if it is behind, and
        takes the role of any project. Or the account of one project or of the operator, which act as themselves.
        Raises CatalogUnavailableError, CatalogRefusedError, ProjectMissingError, ProjectForbiddenError.
        """
        self.listeners: list[Callable[[Row], None]] = []
        self.where = _where(dsn)
        self.project, role = _prepare(dsn, project)
        options = f"-c search_path={_SCHEMA}" + (f" -c role={role}" if role else "")
        self._pool: ConnectionPool[Connection] = ConnectionPool(
            dsn,
            connection_class=psycopg.Connection[Row],
            kwargs={
                "row_factory": dict_row,
                "options": options,
                "connect_timeout": _CONNECT_TIMEOUT,
                "application_name": _client(),
            },
            check=_check,
            min_size=0,
            max_size=_POOL_SIZE,
            timeout=_POOL_TIMEOUT,
            open=True,
        )

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction that commits at the end of the block; raises CatalogUnavailableError, QuotaError.

        Then the listeners hear of what it appended to the audit log.
        """
        with self._connection() as connection:
            yield connection
        for event in _noted.pop(connection, ()):
            for listener in self.listeners:
                listener(event)

    def rows(self, query: str | bytes | sql.SQL | sql.Composed, values: Sequence[Any] = ()) -> list[Row]:
        """The rows of one statement that reads, which is its own transaction; raises CatalogUnavailableError."""
        with self._connection() as connection:
            connection.autocommit = True
            try:
                return connection.execute(query, values).fetchall()
            finally:
                connection.autocommit = False

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        try:
            with self._pool.connection() as connection:
                _noted.pop(connection, None)  # of one that was rolled back
                yield connection
        except (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout) as error:
            raise CatalogUnavailableError(self.where, "", str(error).strip()) from error
        except psycopg.DatabaseError as error:
            if error.diag.sqlstate != _OVER_QUOTA:
                raise
            quota, most, used, need = (error.diag.message_detail or "").split()
            unit = " bytes" if quota.endswith("size") else ""
            found = f"{int(used):,}{unit} in use and {int(need):,}{unit} more"
            raise QuotaError(quota.replace("_", " "), f"at most {int(most):,}{unit}", found) from error

    def identity(self) -> str:
        """Which database this is, however it is reached and under whichever role."""
        query = "SELECT current_database() AS name, system_identifier AS number FROM pg_control_system()"
        with self.transaction() as connection:
            row = connection.execute(query).fetchone()
        assert row
        return f"{row['name']} of server {row['number']}"

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()

    def __enter__(self) -> "Catalog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check(connection: Connection) -> None:
    """Raise OperationalError if an idle connection is dead. To ask the server each time costs as much as a query.

    A server that ends closes its end, which can be seen: there is something to read.
    """
    waiting = select.poll()
    waiting.register(connection.fileno(), select.POLLIN)
    if waiting.poll(0):
        ConnectionPool.check_connection(connection)


def note(connection: Connection, event: Row) -> None:
    """Have the listeners of the catalog hear of an event when the transaction has committed."""
    _noted.setdefault(connection, []).append(event)


def create_project(connection: Connection, name: str) -> str:
    """Create a project with its role, unless it exists; return the role's name. For the operator."""
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (_MIGRATION_LOCK,))
    project = uuid4()
    connection.execute(
        "INSERT INTO projects (id, name, role_name) VALUES (%s, %s, %s) ON CONFLICT (name) DO NOTHING",
        (project, name, f"darkroom_project_{project.hex}"),
    )
    role = _role_of(connection, name)
    assert role
    if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone():
        names = (sql.Identifier(role), sql.Identifier(_SCHEMA + "_project"))
        connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN IN ROLE {}").format(*names))
        connection.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(sql.Identifier(role)))
    return role


def _prepare(dsn: str, project: str | None) -> tuple[str | None, str | None]:
    """The project that the account acts as, and the role to take for it; brings the schema up to date if it may."""
    try:
        with psycopg.connect(
            dsn, row_factory=dict_row, connect_timeout=_CONNECT_TIMEOUT, options=f"-c search_path={_SCHEMA}"
        ) as connection:
            if not _owns_schema(connection):
                return _own_project(connection, project), None
            _migrate(connection)
            return _taken_role(connection, project)
    except psycopg.OperationalError as error:
        message = str(error).strip().splitlines()[-1]
        # A server that is down, starting or full answers later; one that knows us not never does.
        refused = any(word in message for word in ("authentication", "does not exist", "password", "not permitted"))
        kind = CatalogRefusedError if refused else CatalogUnavailableError
        raise kind(_where(dsn), "", message) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise CatalogRefusedError(_where(dsn), "an account that may create roles", str(error)) from error


def _owns_schema(connection: Connection) -> bool:
    """Whether the account owns the schema, or there is none yet."""
    row = connection.execute(
        "SELECT pg_has_role(nspowner, 'USAGE') AS owner FROM pg_namespace WHERE nspname = %s", (_SCHEMA,)
    ).fetchone()
    return row is None or row["owner"]


def _taken_role(connection: Connection, project: str | None) -> tuple[str | None, str | None]:
    if project is None:
        return None, None
    project = project or DEFAULT_PROJECT
    role = _role_of(connection, project)
    if role is None and project == DEFAULT_PROJECT:
        role = create_project(connection, project)
    if role is None:
        raise ProjectMissingError(project)
    return project, role


def _own_project(connection: Connection, project: str | None) -> str | None:
    """The project of an account that owns no schema, or None for the operator's; another one is refused."""
    if _applied(connection) != _known():
        remedy = "upgrade Darkroom here and there; any command with the owner's DSN brings the schema up to date"
        raise CatalogRefusedError("schema", "the migrations of this program", "others", remedy)
    row = connection.execute(
        "SELECT name, is_operator() AS operator FROM projects RIGHT JOIN (SELECT) x ON true"
    ).fetchone()
    assert row
    own: str | None = row["name"]
    if row["operator"]:
        if project:
            raise ProjectForbiddenError(project, "the operator", "a project")
        return None
    if own is None:
        raise CatalogRefusedError("account", "a project's, the operator's or the schema's owner", "another")
    if project is None:
        raise ProjectForbiddenError("operator", f"project {own}", "what is for the operator")
    if project not in ("", own):
        raise ProjectForbiddenError(project, f"project {own}", "another project")
    return own


def _role_of(connection: Connection, project: str) -> str | None:
    row = connection.execute("SELECT role_name FROM projects WHERE name = %s", (project,)).fetchone()
    return row["role_name"] if row else None


def _migrate(connection: Connection) -> None:
    """Apply the migrations that are missing, in order, in this transaction."""
    known = _known()
    if _applied(connection) == known:
        return
    if newer := _applied(connection) - known:
        remedy = "upgrade Darkroom on this machine"
        raise CatalogRefusedError("schema", "no migration newer than this program", max(newer), remedy)
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (_MIGRATION_LOCK,))
    connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(_SCHEMA)))
    connection.execute("CREATE TABLE IF NOT EXISTS migrations (number integer PRIMARY KEY, name text NOT NULL)")
    missing = sorted(known - _applied(connection))
    for name in missing:
        connection.execute(resources.files("darkroom.schema").joinpath(name).read_bytes())
        connection.execute("INSERT INTO migrations VALUES (%s, %s)", (int(name.partition("_")[0]), name))
    if missing:
        connection.execute("SELECT settle_rights()")
    connection.commit()


def _known() -> set[str]:
    return {entry.name for entry in resources.files("darkroom.schema").iterdir() if entry.name.endswith(".sql")}


def _applied(connection: Connection) -> set[str]:
    known = connection.execute("SELECT to_regclass('migrations') AS found").fetchone()
    if not known or known["found"] is None:
        return set()
    return {row["name"] for row in connection.execute("SELECT name FROM migrations")}


def _client() -> str:
    """Who we are, for the audit log: account and host."""
    try:
        account = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        account = str(os.geteuid())
    return f"{account}@{socket.gethostname()}"[:_NAME_LIMIT]


def _where(dsn: str) -> str:
    parts = conninfo.conninfo_to_dict(dsn)
    return f"{parts.get('host', 'localhost')}/{parts.get('dbname', '')}"
