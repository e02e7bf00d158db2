"""Capture: the disks of a server, running or stopped, become an image. What is special to a server; see `creation`.

All disks are read at one instant, and straight into the pass: nothing is staged but what the guest overwrites
meanwhile. A capture that was killed begins at a new instant and keeps nothing of the earlier one but chunks.
"""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from darkroom import creation, hostdisks, qemu, reading, rules
from darkroom.catalog import Row, images, servers
from darkroom.compute import atrest, backup, connection, domain, hosts, throwaway
from darkroom.compute.backup import Disk
from darkroom.errors import ConflictError, DarkroomError, MissingError
from darkroom.model import Reader
from darkroom.overlaid import Overlaid
from darkroom.systems import Systems

Progress = Callable[[int, int], None]
_NO_BITMAP = "no bitmap of what changed: all was read"


class DiskMissingError(MissingError):
    """The server has no disk of this name."""

    code = "disk-not-found"
    what = "the server has no such disk"
    default_remedy = "see its disks with `virsh domblklist`"


class OtherServerError(ConflictError):
    """The earlier image was not captured from this server."""

    code = "other-server"
    what = "the earlier image was not captured from this server"
    default_remedy = "name a capture of this server, or leave --since out"


@dataclasses.dataclass(frozen=True, slots=True)
class CaptureRequest:
    """What a user asks for: `server` is the name or id of a server, or of a libvirt domain on the host.

    `disk` is a disk's name in the server; "" means the first one. `since` is an earlier capture, or "". `key` "" is the
    one that the server's disks are under.
    """

    server: str
    name: str
    host: str = ""
    disk: str = ""
    all_disks: bool = False
    key: str = ""
    since: str = ""
    description: str = ""
    tags: dict[str, str] = dataclasses.field(default_factory=dict)

    def check(self) -> None:
        """Raise the RefusedError of the first rule that the request breaks."""
        rules.check_name(self.name)
        rules.check_description(self.description)
        rules.check_tags(self.tags)


def register(to: Systems, request: CaptureRequest) -> dict[str, str]:
    """Make the row and take its lease, or find those of an attempt that was killed; the image's id and status.

    Raises DomainMissingError, also for what others made and the project may not capture, DiskMissingError,
    OtherServerError, and what `creation.register` raises.
    """
    request.check()
    host, uuid = _find(to, request)
    with connection.open(host.uri) as libvirt:
        name = domain.lookup(libvirt, uuid).name()
        disks = _wanted(backup.disks(libvirt, uuid), request, name)
        properties, key = _made_from(to, uuid)
    plan = {"host": host.name, "server": name, "domain": str(uuid), "disks": [disk.target for disk in disks]}
    if request.since:
        plan["since"] = str(_earlier(to, request.since, plan)["id"])
    wanted = {
        "operation": "capture",
        "request": dataclasses.asdict(request),
        "name": request.name,
        "type": _type(disks, request),
        "description": request.description,
        "key_name": request.key or key,
        "source": f"{host.name}: {name}",
        "source_format": disks[0].format,
        "properties": {**properties, "capture": plan},
    }
    return creation.register(to, wanted, request.tags)


def _find(to: Systems, request: CaptureRequest) -> tuple[hosts.Host, UUID]:
    """The host and the domain of a server; of one of the project's own by its name or id, else as libvirt calls it."""
    try:
        row = servers.find_server(to.catalog, request.server)
        return hosts.find(to.catalog, row["host"]), row["id"]
    except servers.ServerMissingError:
        host = hosts.find(to.catalog, request.host)
    _require_open(to, host, request.server)
    with connection.open(host.uri) as libvirt:
        uuid = domain.find(libvirt, request.server)
        _require_foreign(to, libvirt, uuid, request.server)
    return host, uuid


def _require_open(to: Systems, host: hosts.Host, which: str) -> None:
    """Raise DomainMissingError unless the operator lets the project capture what others made on the host."""
    if to.settings.project not in host.open_to:
        again = f"`darkroom host add {host.name}` again, as before and with `--open-to {to.settings.project}`"
        remedy = f"if others than Darkroom made it, the operator must let this project capture it: {again}"
        raise connection.DomainMissingError(which, "a server of the project", "none", remedy)


def _require_foreign(to: Systems, libvirt: Any, uuid: UUID, which: str) -> None:
    """Raise DomainMissingError for what is, or may be, another project's: a server, a guest of a boot proof."""
    with to.catalog.transaction() as transaction:
        found = transaction.execute("SELECT is_server(%s) AS taken", (uuid,)).fetchone()
    if (found and found["taken"]) or domain.lookup(libvirt, uuid).name().startswith(throwaway.PREFIX):
        raise connection.DomainMissingError(which)


def _planned(to: Systems, plan: dict[str, Any]) -> tuple[hosts.Host, UUID]:
    """The host and the domain of a capture that was begun. The row may be written by whoever acts as the project."""
    host, uuid = hosts.find(to.catalog, plan["host"]), UUID(plan["domain"])
    try:
        servers.find_server(to.catalog, str(uuid))
    except servers.ServerMissingError:
        _require_open(to, host, plan["server"])
        with connection.open(host.uri) as libvirt:
            _require_foreign(to, libvirt, uuid, plan["server"])
    return host, uuid


def _wanted(disks: list[Disk], request: CaptureRequest, name: str) -> list[Disk]:
    if not disks:
        raise DiskMissingError(name, "a disk", "none")
    if request.all_disks:
        return disks
    found = [disk for disk in disks if request.disk in ("", disk.target)]
    if not found:
        raise DiskMissingError(name, request.disk, ", ".join(disk.target for disk in disks))
    return found[:1]


def _type(disks: list[Disk], request: CaptureRequest) -> str:
    if len(disks) > 1:
        return "full"
    return "data" if request.disk and request.disk[-1] != "a" else "system"


def _made_from(to: Systems, uuid: UUID) -> tuple[dict[str, Any], str | None]:
    """What the image that the server was made from says of a server's needs, and the key that its disks are under.

    So what was encrypted never becomes a plain image by being captured. Nothing of a server that others made.
    """
    try:
        row = servers.find_server(to.catalog, str(uuid))
        made_from = images.get(to.catalog, row["image_id"])
    except servers.ServerMissingError:
        return {}, None
    except images.ImageMissingError:
        made_from = {"properties": {}}  # it was deleted meanwhile
    keys = [disk["key_name"] for disk in servers.disks(to.catalog, uuid) if disk["key_name"]]
    kept = {name: value for name, value in made_from["properties"].items() if name not in ("source", "capture")}
    return kept, keys[0] if keys else None


def _earlier(to: Systems, reference: str, plan: dict[str, Any]) -> Row:
    row = images.find(to.catalog, reference)
    reading.require_active(row)
    earlier = row["properties"].get("capture", {})
    if earlier.get("domain") != plan["domain"]:
        raise OtherServerError(row["name"], plan["server"], earlier.get("server", "no capture"))
    return row


def take(to: Systems, image: str, progress: Progress) -> dict[str, Any]:
    """The pass over all disks, as they are at the instant at which this begins; what was read is recorded."""
    with creation.step(to, image) as row, ExitStack() as stack:
        plan = row["properties"]["capture"]
        instant = stack.enter_context(_instant(to, row))
        readers = [stack.enter_context(instant.open_disk(target)) for target in plan["disks"]]
        creation.restart(to, row, [reader.size for reader in readers])
        for number, reader in enumerate(readers):
            creation.look(to, row, number, reader)
        row = images.get(to.catalog, image)
        result = creation.upload_disks(to, row, lambda number: nullcontext(readers[number]), progress)
        overlaid = [reader for reader in readers if isinstance(reader, Overlaid)]
        note = instant.note or (_NO_BITMAP if plan.get("since") and not overlaid else "")
        told: dict[str, Any] = {"at": instant.at.isoformat(), "consistency": instant.consistency, "note": note}
        if overlaid:
            told["changed_size"] = sum(reader.changed for reader in overlaid)
        with to.catalog.transaction() as transaction:
            properties = {**row["properties"], "capture": {**plan, **told}}
            images.update(transaction, row["id"], properties=properties)
    return {**result, **told}


@dataclasses.dataclass(frozen=True, slots=True)
class _Instant:
    """Disks that do not change: how to open one by its name in the server, and what is known of the instant.

    `consistency`: `application` where all programs had ended, `filesystem` where file systems were frozen, `crash`
    where the disks are as after a power cut.
    """

    open_disk: Callable[[str], AbstractContextManager[Reader]]
    consistency: str
    at: datetime = dataclasses.field(default_factory=lambda: datetime.now(UTC))
    note: str = ""


@contextmanager
def _instant(to: Systems, row: Row) -> Iterator[_Instant]:
    plan = row["properties"]["capture"]
    host, uuid = _planned(to, plan)
    host.prepare()
    with connection.open(host.uri) as libvirt:
        disks = {disk.target: disk for disk in backup.disks(libvirt, uuid)}
        wanted = [_present(disks, target, plan["server"]) for target in plan["disks"]]
        before = images.get(to.catalog, plan["since"]) if plan.get("since") else None
        if _is_at_rest(libvirt, uuid):
            ours = {str(host.disk(disk["id"])): disk for disk in servers.disks(to.catalog, uuid)}
            yield _Instant(
                lambda target: _open_at_rest(to, row, host, disks[target], ours, before),
                "application" if domain.ended_well(libvirt, uuid) else "crash",
            )
        else:
            since = checkpoint(before["id"]) if before else ""
            with backup.running(libvirt, uuid, wanted, _folder(host, row), checkpoint(row["id"]), since) as taken:
                consistency = "filesystem" if taken.frozen else "crash"
                yield _Instant(lambda target: _open(to, taken, target, before), consistency, note=taken.note)


def _is_at_rest(libvirt: Any, uuid: UUID) -> bool:
    return domain.state(libvirt, uuid)[0] in ("stopped", "crashed")


def _present(disks: dict[str, Disk], target: str, server: str) -> Disk:
    if target not in disks:
        raise DiskMissingError(server, target, ", ".join(disks))
    return disks[target]


@contextmanager
def _open_at_rest(
    to: Systems, row: Row, host: hosts.Host, disk: Disk, ours: dict[str, Row], before: Row | None
) -> Iterator[Reader]:
    """A disk of a stopped server, as `_open`; `ours` are those that Darkroom made, by their files."""
    made = ours.get(disk.path)
    own = hostdisks.at_rest(to, host, made) if made else None
    opened = partial(atrest.open_disk, disk, creation.spool(to, row), to.settings, own)
    with ExitStack() as stack:
        now = stack.enter_context(opened())
        if before is None or disk.format != "qcow2" or disk.target not in _captured(before):
            yield now
            return
        try:
            changes = stack.enter_context(opened(since=checkpoint(before["id"])))
        except qemu.SourceUnreadableError:  # its bitmap is missing, or broken
            yield now
            return
        earlier = stack.enter_context(reading.open_disk(to, before, _captured(before).index(disk.target)))
        yield Overlaid(now, earlier, changes)


def _captured(image: Row) -> list[str]:
    """The names in the server of the disks that a capture has."""
    return list(image["properties"]["capture"]["disks"])


@contextmanager
def _open(to: Systems, taken: backup.Backup, target: str, before: Row | None) -> Iterator[Reader]:
    """A disk of a running server; with an earlier image of it, only what has changed since is read."""
    with ExitStack() as stack:
        now = taken.open_disk(target)
        stack.callback(now.close)
        if before is None or target not in taken.changed or target not in _captured(before):
            yield now
            return
        changes = taken.open_changes(target)
        stack.callback(changes.close)
        earlier = stack.enter_context(reading.open_disk(to, before, _captured(before).index(target)))
        yield Overlaid(now, earlier, changes)


def settle(to: Systems, image: str) -> None:
    """Forget the checkpoints of the server but this image's, if it is active, and the one it was captured since.

    What the host cannot do now, the next capture of the server does.
    """
    row = images.get(to.catalog, image)
    plan = row["properties"]["capture"]
    keep = [checkpoint(row["id"]), *([checkpoint(UUID(plan["since"]))] if plan.get("since") else [])]
    try:
        host, uuid = _planned(to, plan)
        with connection.open(host.uri) as libvirt:
            if row["status"] != "active":
                backup.tidy(libvirt, uuid, _folder(host, row), checkpoint(row["id"]))
            elif not _is_at_rest(libvirt, uuid):  # else the records could go, but not their bitmaps
                backup.prune(libvirt, uuid, keep)
    except DarkroomError:
        pass


def checkpoint(image: UUID) -> str:
    """The name of the checkpoint that a capture leaves on the server."""
    return f"{backup.PREFIX}{image}"


def _folder(host: hosts.Host, row: Row) -> Path:
    return host.run / f"capture-{row['id'].hex[:16]}"
