"""Volumes: disks from images that outlive servers. One function per step, each of which can be run again."""

import dataclasses
import string
from typing import Any

from darkroom import hostdisks, placing, reading, rules
from darkroom.catalog import Row, images, servers
from darkroom.compute import connection as compute
from darkroom.compute import domain, hosts, keeping, overlay
from darkroom.errors import ConflictError, RefusedError
from darkroom.hostdisks import Progress
from darkroom.model import GiB
from darkroom.systems import Systems

_TARGETS = [f"vd{letter}" for letter in string.ascii_lowercase[1:-1]]


class VolumeAttachedError(ConflictError):
    """A server has the volume."""

    code = "volume-attached"
    what = "a server has the volume"
    default_remedy = "detach it first with `darkroom volume detach`"


class VolumeRequestError(RefusedError):
    """A volume that cannot be."""

    code = "volume-request"
    what = "a volume cannot be made so"


@dataclasses.dataclass(frozen=True, slots=True)
class VolumeRequest:
    """What a user asks for: disk `number` of an image, `size` in GiB (0: the image's own)."""

    image: str
    name: str
    host: str = ""
    size: int = 0
    number: int = 0
    full_copy: bool = False

    def check(self) -> None:
        """Raise the RefusedError of the first rule that the request breaks."""
        rules.check_name(self.name)
        if not 0 <= self.size <= rules.MAX_DISK["data"]:
            raise VolumeRequestError(self.name, f"at most {rules.MAX_DISK['data']} GiB", f"{self.size} GiB")


def register(to: Systems, request: VolumeRequest) -> dict[str, str]:
    """Make the row and hold the image; return the volume's id and status. What an earlier try began is gone on with."""
    request.check()
    kept = dataclasses.asdict(request)
    with to.catalog.transaction() as connection:
        query = "SELECT * FROM server_disks WHERE volume = %s FOR UPDATE"
        found = connection.execute(query, (request.name,)).fetchone()
        if found:
            if found["request"] != kept or found["status"] == "deleting":
                raise servers.ServerNameTakenError(request.name)
            if found["status"] == "creating":
                servers.hold(connection, "server_disks", found)
            return {"volume": str(found["id"]), "status": found["status"]}
    host = hosts.find(to.catalog, request.host)
    host.prepare()
    image = images.find(to.catalog, request.image)
    reading.require_active(image)
    with to.catalog.transaction() as connection:
        disks = {disk["number"]: disk for disk in hostdisks.of_image(connection, image)}
        disk = disks.get(request.number)
        if disk is None:
            raise VolumeRequestError(request.name, f"a disk {request.number} of the image", f"{len(disks)} disks")
        least = disk["virtual_size"]
        if request.size and request.size * GiB < least:
            raise placing.ServerDiskError(image["name"], f"at least {-(-least // GiB)} GiB", f"{request.size} GiB")
        columns = {"volume": request.name, "size": max(request.size * GiB, least), "request": kept}
        volume = hostdisks.insert(to, connection, host, image, disk, columns)
        images.record_event(connection, "create volume", image["id"], "started", request.name)
    return {"volume": str(volume), "status": "creating"}


def provide(to: Systems, volume: str, progress: Progress, *, full_copy: bool = False) -> dict[str, Any]:
    """Make the file: from then on the volume can be attached, and becomes whole in the background."""
    row = servers.find_volume(to.catalog, volume)
    if row["status"] == "creating":
        with to.catalog.transaction() as connection:
            servers.hold(connection, "server_disks", row)
        hostdisks.provide(to, hosts.find(to.catalog, row["host"]), row, progress, full_copy=full_copy)
        with to.catalog.transaction() as connection:
            images.record_event(connection, "create volume", row["image_id"], "done", row["volume"])
    return describe(to, volume)


def describe(to: Systems, reference: str) -> dict[str, Any]:
    """What there is to tell of a volume, as small JSON."""
    row = servers.find_volume(to.catalog, reference)
    return _shown(next(each for each in servers.volumes(to.catalog) if each["id"] == row["id"]))


def listed(to: Systems) -> list[dict[str, Any]]:
    """All volumes of the project by name, as small JSON."""
    return [_shown(row) for row in servers.volumes(to.catalog)]


def _shown(row: Row) -> dict[str, Any]:
    """A row of `servers.volumes` as small JSON."""
    names = ("status", "host", "size", "server", "target")
    return {
        "id": str(row["id"]),
        "name": row["volume"],
        **{name: row[name] for name in names},
        "hydrated": row["size"] if row["status"] == "whole" else row["hydrated"],
        "encrypted": row["key_name"] is not None,
        "image": str(row["image_id"]),
        "created_at": row["created_at"].isoformat(),
    }


def attach(to: Systems, reference: str, server: str) -> dict[str, Any]:
    """Give a volume to a server of the same host, while it runs or not; the same again does no harm."""
    row, owner = servers.find_volume(to.catalog, reference), servers.find_server(to.catalog, server)
    if row["host"] != owner["host"]:
        raise VolumeRequestError(row["volume"], f"a server on host {row['host']}", f"one on {owner['host']}")
    target = _take(to, row, owner)
    row = servers.find_volume(to.catalog, reference)
    host = hosts.find(to.catalog, row["host"])
    if row["status"] == "lazy":
        keeping.serve(to, host, row["id"])  # the keeper leaves its file to the guest
    with compute.open(host.uri) as libvirt:
        hostdisks.give_secrets(to, libvirt, [row])
        if not domain.has_disk(libvirt, owner["id"], target):
            domain.attach(libvirt, owner["id"], hostdisks.as_disk(host, row))
    with to.catalog.transaction() as connection:
        images.record_event(
            connection, "attach volume", row["image_id"], "done", f"{row['volume']} to {owner['name']} as {target}"
        )
    return describe(to, reference)


def detach(to: Systems, reference: str) -> dict[str, Any]:
    """Take a volume from its server; the guest of one that runs must let go of it. Raises DomainBusyError."""
    row = servers.find_volume(to.catalog, reference)
    if row["server_id"] is None:
        return describe(to, reference)
    host = hosts.find(to.catalog, row["host"])
    with compute.open(host.uri) as libvirt:
        if domain.has_disk(libvirt, row["server_id"], row["target"]):
            domain.detach(libvirt, row["server_id"], row["target"])
        overlay.forget_secret(libvirt, row["id"])
    with to.catalog.transaction() as connection:
        servers.change(connection, "server_disks", row["id"], server_id=None, target=None)
        images.record_event(connection, "detach volume", row["image_id"], "done", row["volume"])
    return describe(to, reference)


def delete(to: Systems, reference: str) -> dict[str, str]:
    """Remove a volume that no server has, at whatever point it is; raises VolumeAttachedError, ServerBusyError."""
    row = servers.find_volume(to.catalog, reference)
    remove(to, row)
    with to.catalog.transaction() as connection:
        images.record_event(connection, "delete volume", row["image_id"], "done", row["volume"])
    return {"volume": str(row["id"]), "name": row["volume"]}


def fail(to: Systems, volume: str, reason: str) -> None:
    """Leave nothing of a volume whose creation cannot go on, but the reason in the log."""
    row = servers.find_volume(to.catalog, volume)
    if row["status"] != "creating":
        return
    remove(to, row)
    with to.catalog.transaction() as connection:
        images.record_event(connection, "create volume", row["image_id"], "failed", f"{row['volume']}: {reason}")


def cancel(to: Systems, name: str) -> None:
    """Undo a creation that was cancelled; nothing to do where none was begun, or it had come to its end."""
    try:
        fail(to, name, "cancelled")
    except servers.VolumeMissingError:
        pass


def remove(to: Systems, row: Row) -> None:
    """Take away a volume's export, file, row and hold."""
    with to.catalog.transaction() as connection:
        servers.hold(connection, "server_disks", row)
        now = connection.execute("SELECT server_id FROM server_disks WHERE id = %s", (row["id"],)).fetchone()
        if now and now["server_id"]:
            raise VolumeAttachedError(row["volume"])
        servers.change(connection, "server_disks", row["id"], status="deleting")
    hostdisks.remove(to, hosts.find(to.catalog, row["host"]), row)


def _take(to: Systems, row: Row, owner: Row) -> str:
    """Write into the row that the server has the volume; return its name in the guest."""
    with to.catalog.transaction() as connection:
        connection.execute("SELECT FROM servers WHERE id = %s FOR UPDATE", (owner["id"],))
        query = "SELECT * FROM server_disks WHERE id = %s FOR UPDATE"
        now = connection.execute(query, (row["id"],)).fetchone()
        if now is None or now["status"] not in ("lazy", "whole"):
            raise images.StatusError(row["volume"], "status lazy or whole", f"status {row['status']}")
        if now["server_id"] == owner["id"]:
            return str(now["target"])
        if now["server_id"]:
            raise VolumeAttachedError(row["volume"])
        taken = connection.execute("SELECT target FROM server_disks WHERE server_id = %s", (owner["id"],)).fetchall()
        free = [target for target in _TARGETS if target not in {each["target"] for each in taken}]
        if not free:
            raise VolumeRequestError(row["volume"], f"a server with fewer than {len(_TARGETS)} volumes", owner["name"])
        servers.change(connection, "server_disks", row["id"], server_id=owner["id"], target=free[0])
        return free[0]
