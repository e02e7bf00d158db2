"""Servers: one function per step of their life. A step can be run again, by another process too.

Rows first, then files, then the domain; away in reverse. The server runs as soon as its disks are there as overlays
over the image; the keeper of the host (`compute/keeper.py`) does the rest in the background.
"""

import dataclasses
import hashlib
import os
import shutil
from pathlib import Path
from typing import Any
from uuid import UUID

from darkroom import hostdisks, placing, reading, rules
from darkroom.catalog import Row, images, servers
from darkroom.compute import addresses, domain, hosts, keeping, overlay, seed
from darkroom.compute import connection as compute
from darkroom.compute.domain import Disk, Domain
from darkroom.compute.hosts import Host
from darkroom.errors import DarkroomError, RefusedError
from darkroom.hostdisks import Progress
from darkroom.systems import Systems

MAX_CPUS = 255
MAX_USER_DATA = 32 * 1024
GRACE = 60.0
"""Seconds for which a guest that is asked to stop may take."""
_SEED_TARGET = "vdz"
_MEDIUM_TARGET = "sda"


class ServerRequestError(RefusedError):
    """A value that no server can have."""

    code = "server-request"
    what = "a server cannot be made so"


@dataclasses.dataclass(frozen=True, slots=True)
class ServerRequest:
    """What a user asks for. `memory` in MiB, `disk` in GiB; 0 and "" mean what suits the image."""

    image: str
    name: str
    host: str = ""
    cpus: int = 1
    memory: int = 0
    disk: int = 0
    ssh_key: str = ""
    user_data: str = ""
    network: str = domain.USER_NETWORK
    boot_mode: str = ""
    full_copy: bool = False

    def check(self) -> None:
        """Raise the RefusedError of the first rule that the request breaks."""
        rules.check_name(self.name)
        if not 1 <= self.cpus <= MAX_CPUS:
            raise ServerRequestError(self.name, f"1 to {MAX_CPUS} processors", str(self.cpus))
        if not 0 <= self.memory <= rules.MAX_RAM or not 0 <= self.disk <= rules.MAX_DISK["data"]:
            raise ServerRequestError(self.name, "memory and disk within bounds", f"{self.memory} MiB, {self.disk} GiB")
        if len(self.user_data) > MAX_USER_DATA:
            raise ServerRequestError(self.name, f"user data of at most {MAX_USER_DATA} characters", "more")

    def kept(self) -> dict[str, Any]:
        """What the row keeps: of user data, which may be confidential, the digest alone."""
        fields = dataclasses.asdict(self)
        return {**fields, "user_data": hashlib.sha256(self.user_data.encode()).hexdigest() if self.user_data else ""}


def register(to: Systems, request: ServerRequest) -> dict[str, str]:
    """Make the rows, hold the image; return the server's id and status. What an earlier try began is gone on with.

    Raises ImageMissingError, NotReadableError, the errors of `placing`, ServerNameTakenError, ServerBusyError.
    """
    request.check()
    with to.catalog.transaction() as connection:
        query = "SELECT * FROM servers WHERE name = %s FOR UPDATE"
        found = connection.execute(query, (request.name,)).fetchone()
        if found:
            if found["request"] != request.kept() or found["status"] == "deleting":
                raise servers.ServerNameTakenError(request.name)
            if found["status"] == "creating":
                servers.hold(connection, "servers", found)
            return {"server": str(found["id"]), "status": found["status"]}
    host = hosts.find(to.catalog, request.host)
    host.prepare()
    image = images.find(to.catalog, request.image)
    reading.require_active(image)
    with to.catalog.transaction() as connection:
        disks = hostdisks.of_image(connection, image)
    place = placing.place(host, image, disks, request)
    with to.catalog.transaction() as connection:
        columns = {
            "name": request.name,
            "host": host.name,
            "image_id": image["id"],
            "cpus": request.cpus,
            "memory": place.memory,
            "boot_mode": place.boot_mode,
            "network": place.network,
            "queues": place.queues,
            "request": request.kept(),
        }
        server = servers.insert(connection, "servers", columns)
        for (disk, where), size in zip(_layout(image, disks), place.sizes, strict=True):
            hostdisks.insert(to, connection, host, image, disk, {**where, "server_id": server, "size": size})
        images.record_event(connection, "create server", image["id"], "started", request.name)
        placing.require_memory(connection, host, place)
    return {"server": str(server), "status": "creating"}


def _layout(image: Row, disks: list[Row]) -> list[tuple[Row, Row]]:
    """Each disk that a server of the image gets, and where: the image's own, or a blank one and the medium."""
    if image["type"] == "iso":
        return [(hostdisks.BLANK, {"target": "vda"}), (disks[0], {"target": _MEDIUM_TARGET, "medium": True})]
    return [(disk, {"target": f"vd{chr(ord('a') + number)}"}) for number, disk in enumerate(disks)]


def provide(to: Systems, server: str, request: ServerRequest, progress: Progress) -> dict[str, Any]:
    """Make the files: overlays over the image, or copies of it; and what cloud-init reads."""
    row, host = _begin(to, server)
    for disk in servers.disks(to.catalog, row["id"]):
        hostdisks.provide(to, host, disk, progress, full_copy=request.full_copy)
    folder = host.server(row["id"])
    folder.mkdir(exist_ok=True, mode=0o700)
    with compute.open(host.uri) as libvirt:
        if os.geteuid() == 0:
            os.chown(folder, *domain.account(libvirt))
    if request.ssh_key or request.user_data:
        keys = [line for line in request.ssh_key.splitlines() if line.strip()]
        seed.write(folder / "seed.iso", row["id"], _host_name(row["name"]), keys, request.user_data)
    return {"server": server}


def boot(to: Systems, server: str) -> dict[str, Any]:
    """Start it; from then on it is ready, and its disks become whole in the background."""
    row, host = _begin(to, server)
    if row["status"] == "creating":
        with compute.open(host.uri) as libvirt:
            domain.start(libvirt, _domain(to, libvirt, host, row))
        with to.catalog.transaction() as connection:
            connection.execute(
                "UPDATE servers SET status = 'ready', holder = NULL, ready_at = now() WHERE id = %s", (row["id"],)
            )
            images.record_event(connection, "create server", row["image_id"], "done", row["name"])
    return describe(to, server)


def describe(to: Systems, server: str) -> dict[str, Any]:
    """What there is to tell of a server, as small JSON."""
    row = servers.find_server(to.catalog, server)
    host = hosts.find(to.catalog, row["host"])
    state = _state(host, row["id"])
    names = ("name", "status", "host", "cpus", "memory", "boot_mode", "network", "queues")
    rows = servers.disks(to.catalog, row["id"])
    disks = [
        {
            "id": str(disk["id"]),
            "target": disk["target"],
            "volume": disk["volume"],
            "medium": disk["medium"],
            "size": disk["size"],
            "status": disk["status"],
            "hydrated": disk["size"] if disk["status"] == "whole" else disk["hydrated"],
            "encrypted": disk["key_name"] is not None,
        }
        for disk in rows
    ]
    shown = {name: row[name] for name in names}
    times = {name: row[name].isoformat() if row[name] else None for name in ("created_at", "ready_at")}
    screen = _screen(host, rows)
    where = {"addresses": _addresses(host, row["id"]), "screen": str(screen) if screen else None}
    return {"id": str(row["id"]), **shown, **state, **where, "image": str(row["image_id"]), **times, "disks": disks}


def listed(to: Systems) -> list[dict[str, Any]]:
    """All servers of the project by name, as small JSON."""
    known = {host.name: host for host in hosts.listed(to.catalog)}
    names = ("name", "status", "host", "cpus", "memory", "size", "hydrated", "whole")
    return [
        {"id": str(row["id"]), **{name: row[name] for name in names}, **_state(known[row["host"]], row["id"])}
        for row in servers.listed(to.catalog)
    ]


def console(to: Systems, reference: str) -> Path:
    """The file that takes what the guest writes to its serial port."""
    row = servers.find_server(to.catalog, reference)
    return _console(hosts.find(to.catalog, row["host"]), row["id"])


def screenshot(to: Systems, reference: str) -> bytes:
    """What the server's screen shows, as PNG; raises DomainStateError where it does not run."""
    row = servers.find_server(to.catalog, reference)
    with compute.open(hosts.find(to.catalog, row["host"]).uri) as libvirt:
        return domain.screenshot(libvirt, row["id"])


def start(to: Systems, reference: str) -> dict[str, Any]:
    """Start a server that is stopped; one that runs is left to run."""
    row, host = _ready(to, reference)
    for disk in servers.disks(to.catalog, row["id"]):
        if disk["status"] == "lazy":
            keeping.serve(to, host, disk["id"])
    with compute.open(host.uri) as libvirt:
        if domain.exists(libvirt, row["id"]):
            hostdisks.give_secrets(to, libvirt, servers.disks(to.catalog, row["id"]))
            domain.resume(libvirt, row["id"])
        else:
            domain.start(libvirt, _domain(to, libvirt, host, row))
    return describe(to, str(row["id"]))


def stop(to: Systems, reference: str, *, force: bool = False) -> dict[str, Any]:
    """Stop a server: its guest is asked first, unless `force`."""
    row, host = _ready(to, reference)
    with compute.open(host.uri) as libvirt:
        domain.stop(libvirt, row["id"], grace=0 if force else GRACE)
    return describe(to, str(row["id"]))


def delete(to: Systems, reference: str) -> dict[str, str]:
    """Remove a server and its disks, at whatever point it is; volumes stay. Raises ServerBusyError."""
    row = servers.find_server(to.catalog, reference)
    remove(to, row)
    with to.catalog.transaction() as connection:
        images.record_event(connection, "delete server", row["image_id"], "done", row["name"])
    return {"server": str(row["id"]), "name": row["name"]}


def fail(to: Systems, server: str, reason: str) -> None:
    """Leave nothing of a server whose creation cannot go on, but the reason in the log."""
    row = servers.find_server(to.catalog, server)
    if row["status"] != "creating":
        return
    remove(to, row)
    with to.catalog.transaction() as connection:
        images.record_event(connection, "create server", row["image_id"], "failed", f"{row['name']}: {reason}")


def cancel(to: Systems, name: str) -> None:
    """Undo a creation that was cancelled; nothing to do where none was begun, or it had come to its end."""
    try:
        fail(to, name, "cancelled")
    except servers.ServerMissingError:
        pass


def remove(to: Systems, row: Row) -> None:
    """Take away all that a server has: domain, disks and their holds, folder, rows."""
    host = hosts.find(to.catalog, row["host"])
    with to.catalog.transaction() as connection:
        servers.hold(connection, "servers", row)
        servers.change(connection, "servers", row["id"], status="deleting")
    with compute.open(host.uri) as libvirt:
        domain.remove(libvirt, row["id"])
        for disk in servers.disks(to.catalog, row["id"]):
            overlay.forget_secret(libvirt, disk["id"])
    for disk in servers.disks(to.catalog, row["id"]):
        if disk["volume"]:
            with to.catalog.transaction() as connection:
                servers.change(connection, "server_disks", disk["id"], server_id=None, target=None)
        else:
            hostdisks.remove(to, host, disk)
    shutil.rmtree(host.server(row["id"]), ignore_errors=True)
    with to.catalog.transaction() as connection:
        connection.execute("DELETE FROM servers WHERE id = %s", (row["id"],))


def _begin(to: Systems, server: str) -> tuple[Row, Host]:
    """The row of a server that this process creates, and its host."""
    row = servers.find_server(to.catalog, server)
    if row["status"] == "creating":
        with to.catalog.transaction() as connection:
            servers.hold(connection, "servers", row)
    return row, hosts.find(to.catalog, row["host"])


def _ready(to: Systems, reference: str) -> tuple[Row, Host]:
    row = servers.find_server(to.catalog, reference)
    if row["status"] != "ready":
        raise images.StatusError(row["name"], "status ready", f"status {row['status']}")
    return row, hosts.find(to.catalog, row["host"])


def _domain(to: Systems, libvirt: Any, host: Host, row: Row) -> Domain:
    """The server in the words of `compute.domain`, with the keys of its disks given to libvirt."""
    rows = servers.disks(to.catalog, row["id"])
    hostdisks.give_secrets(to, libvirt, rows)
    disks = [hostdisks.as_disk(host, disk) for disk in rows]
    iso = host.server(row["id"]) / "seed.iso"
    if iso.exists():
        disks.append(Disk(iso, "raw", _SEED_TARGET, readonly=True))
    return Domain(
        row["id"],
        f"{_host_name(row['name'])}-{row['id'].hex[:8]}",
        tuple(disks),
        "kvm" if host.accelerator == "kvm" else "tcg",
        cpus=row["cpus"],
        memory=row["memory"],
        uefi=host.server(row["id"]) / "uefi.fd" if row["boot_mode"] == "uefi" else None,
        network=row["network"],
        queues=row["queues"],
        console=_console(host, row["id"]),
        screen=_screen(host, rows),
    )


def _console(host: Host, server: UUID) -> Path:
    return host.server(server) / "console.log"


def _screen(host: Host, disks: list[Row]) -> Path | None:
    """Where somebody can type: at a server that installs."""
    return next((host.server(disk["server_id"]) / "screen" for disk in disks if disk["medium"]), None)


def _state(host: Host, server: UUID) -> dict[str, str]:
    try:
        with compute.open(host.uri) as libvirt:
            state, why = domain.state(libvirt, server)
            return {"state": f"{state}, {why}" if why else state}
    except compute.DomainMissingError:
        return {"state": "not there"}
    except DarkroomError as error:
        return {"state": f"unknown: {error.code}"}


def _addresses(host: Host, server: UUID) -> list[str]:
    try:
        with compute.open(host.uri) as libvirt:
            return addresses.of(libvirt, server)
    except DarkroomError:
        return []  # the state says why


def _host_name(name: str) -> str:
    """A name as host names are: letters, digits and dashes."""
    return "".join(letter if letter.isalnum() else "-" for letter in name).strip("-").lower()[:63] or "server"
