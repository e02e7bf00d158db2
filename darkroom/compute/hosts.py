"""Compute hosts in the catalog, and where each keeps what. They belong to the operator; all projects use them.

Darkroom runs on the host whose servers it makes, with a worker on each: disks, sockets and caches are local files.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import psycopg

from darkroom.catalog import DEFAULT_PROJECT, Catalog, Connection, ProjectMissingError, Row, create_project
from darkroom.errors import ConflictError, MissingError, RefusedError

_STORAGE = re.compile(r"/[A-Za-z0-9._/-]{1,53}")


class HostMissingError(MissingError):
    """There is no such compute host, or none at all."""

    code = "host-not-found"
    what = "there is no such compute host"
    default_remedy = "see `darkroom host list`, or add one with `darkroom host add`"


class HostAmbiguousError(ConflictError):
    """Several hosts, and none was named."""

    code = "host-ambiguous"
    what = "there are several compute hosts"
    default_remedy = "name one with --host"


class HostTakenError(ConflictError):
    """The name belongs to another host."""

    code = "host-taken"
    what = "another compute host has this name"
    default_remedy = "choose another name"


class HostInUseError(ConflictError):
    """Servers or volumes are on the host."""

    code = "host-in-use"
    what = "the compute host has servers or volumes"
    default_remedy = "delete them first"


class StorageError(RefusedError):
    """The folder cannot be a host's storage."""

    code = "host-storage"
    what = "this folder cannot be the storage of a compute host"
    default_remedy = (
        "give an absolute path of at most 54 letters, digits, dots, dashes and slashes (sockets need it short)"
    )


@dataclass(frozen=True, slots=True)
class Host:
    """A compute host; `storage` is on this machine."""

    name: str
    uri: str
    storage: Path
    accelerator: str
    cache_size: int
    open_to: tuple[str, ...] = ()
    """The projects that may capture domains which Darkroom did not make; a project sees itself alone."""

    @property
    def cache(self) -> Path:
        """The chunk cache."""
        return self.storage / "cache"

    @property
    def run(self) -> Path:
        """Sockets, and what else lives as long as a process."""
        return self.storage / "run"

    def disk(self, disk: UUID) -> Path:
        """The file of a disk."""
        return self.storage / "disks" / f"{disk}.qcow2"

    def server(self, server: UUID) -> Path:
        """The folder of a server: its console, its cloud-init data, its UEFI variables."""
        return self.storage / "servers" / str(server)

    def prepare(self) -> None:
        """Make the folders. QEMU, which may run under another account, passes through but cannot list them."""
        for folder, mode in ((self.storage, 0o711), (self.cache, 0o700), (self.run, 0o711)):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(mode)
        for name in ("disks", "servers"):
            (self.storage / name).mkdir(exist_ok=True)
            (self.storage / name).chmod(0o711)


def check_storage(host: Host) -> None:
    """Raise StorageError unless the folder can be a host's storage."""
    if not _STORAGE.fullmatch(str(host.storage)):
        raise StorageError(str(host.storage))


def add(operator: Catalog, host: Host) -> None:
    """Record a host; the same again with other values changes it. Raises StorageError, ProjectMissingError."""
    check_storage(host)
    with operator.transaction() as connection:
        connection.execute(
            """INSERT INTO hosts (name, uri, storage, accelerator, cache_size) VALUES (%s, %s, %s, %s, %s)
            ON CONFLICT (name) DO UPDATE SET uri = excluded.uri, accelerator = excluded.accelerator,
                cache_size = excluded.cache_size WHERE hosts.storage = excluded.storage""",
            (host.name, host.uri, str(host.storage), host.accelerator, host.cache_size),
        )
        row = connection.execute("SELECT * FROM hosts WHERE name = %s", (host.name,)).fetchone()
        if row is None or row["storage"] != str(host.storage):
            raise HostTakenError(host.name, str(host.storage), row["storage"] if row else "")
        _open(connection, host.name, host.open_to)


def _open(connection: Connection, host: str, projects: Sequence[str]) -> None:
    """Let these projects, and no others, capture what others made."""
    connection.execute("DELETE FROM open_hosts WHERE host = %s", (host,))
    for name in dict.fromkeys(projects):
        if name == DEFAULT_PROJECT:
            create_project(connection, name)  # as whoever uses it first does
        query = "INSERT INTO open_hosts SELECT %s, id FROM projects WHERE name = %s RETURNING host"
        if not connection.execute(query, (host, name)).fetchone():
            raise ProjectMissingError(name, "", "", "see `darkroom project list`")


def remove(operator: Catalog, name: str) -> Host:
    """Forget a host without servers and volumes; raises HostMissingError, HostInUseError."""
    host = find(operator, name)
    try:
        with operator.transaction() as connection:
            connection.execute("DELETE FROM hosts WHERE name = %s", (name,))
    except psycopg.errors.ForeignKeyViolation:
        raise HostInUseError(name) from None
    return host


def find(catalog: Catalog, name: str = "") -> Host:
    """The host of this name, or the only one; raises HostMissingError, HostAmbiguousError."""
    found = [host for host in listed(catalog) if name in ("", host.name)]
    if not found:
        raise HostMissingError(name or "hosts")
    if len(found) > 1:
        raise HostAmbiguousError("hosts", "one", ", ".join(host.name for host in found))
    return found[0]


def listed(catalog: Catalog) -> list[Host]:
    """All hosts by name."""
    with catalog.transaction() as connection:
        query = """SELECT h.*, ARRAY(SELECT p.name FROM open_hosts o JOIN projects p ON p.id = o.project_id
            WHERE o.host = h.name ORDER BY p.name) AS open_to FROM hosts h ORDER BY h.name"""
        rows = connection.execute(query).fetchall()
    return [_host(row) for row in rows]


def _host(row: Row) -> Host:
    storage, open_to = Path(row["storage"]), tuple(row["open_to"])
    return Host(row["name"], row["uri"], storage, row["accelerator"], row["cache_size"], open_to)
