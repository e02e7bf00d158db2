"""Disks on a compute host, of servers and volumes alike: rows, keys and holds; files; and away with them."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from uuid import UUID, uuid4

from darkroom import manifest, reading
from darkroom.catalog import Connection, Row, servers
from darkroom.compute import atrest, diskkeys, keeping, overlay
from darkroom.compute.domain import Disk
from darkroom.compute.hosts import Host
from darkroom.download import DiskReader
from darkroom.nbd.server import NbdServer
from darkroom.systems import Systems

Progress = Callable[[int, int], None]
BLANK: Row = {"number": 0, "manifest_digest": None}
"""In place of a stored disk: one that is read from nothing."""
_POLL = 0.2


def of_image(connection: Connection, image: Row) -> list[Row]:
    """The stored disks of an image in order; raises NotReadableError."""
    query = "SELECT * FROM disks WHERE image_id = %s AND manifest_digest IS NOT NULL ORDER BY number"
    found = connection.execute(query, (image["id"],)).fetchall()
    if not found:
        raise reading.NotReadableError(str(image["id"]), "a stored disk", f"status {image['status']}")
    return found


def insert(to: Systems, connection: Connection, host: Host, image: Row, disk: Row, columns: dict[str, Any]) -> UUID:
    """Make the row of a disk, with its own wraps and its hold on the image; raises NotReadableError, WrapMissingError.

    `disk` is a stored one of the image, or BLANK.

    The hold comes first: it locks the image's row against being removed. If the image was deleted just before, that
    shows now.
    """
    found = uuid4()
    connection.execute("INSERT INTO holds (image_id, holder) VALUES (%s, %s)", (image["id"], found))
    now = connection.execute("SELECT status FROM images WHERE id = %s", (image["id"],)).fetchone()
    reading.require_active({**image, "status": now["status"] if now else "deleted"})
    kept = {
        "id": found,
        "host": host.name,
        "image_id": image["id"],
        "image_disk": disk["number"],
        "manifest_digest": disk["manifest_digest"],
        **diskkeys.create(to, connection, image, found),
    }
    return servers.insert(connection, "server_disks", {**kept, **columns})


def provide(to: Systems, host: Host, disk: Row, progress: Progress, *, full_copy: bool = False) -> None:
    """Make the file of a disk, unless that is done: blank, over the keeper's export, or as a copy of all bytes."""
    if disk["status"] != "creating":
        return
    path, key = host.disk(disk["id"]), diskkeys.disk_key(to, disk["id"])
    if disk["manifest_digest"] is None:
        overlay.create(path, disk["size"], key)
    elif full_copy:
        _copy(to, host, disk, key, progress)
    else:
        overlay.create(path, disk["size"], key, keeping.serve(to, host, disk["id"]))
        with to.catalog.transaction() as connection:
            servers.change(connection, "server_disks", disk["id"], status="lazy", holder=None)
        return
    with to.catalog.transaction() as connection:
        servers.change(connection, "server_disks", disk["id"], status="whole", data_key=None, holder=None)
        connection.execute("DELETE FROM holds WHERE holder = %s", (disk["id"],))


def remove(to: Systems, host: Host, disk: Row) -> None:
    """Take a disk away: it is served no more, then its file goes, then the row and the hold."""
    keeping.release(host, disk["id"])
    path = host.disk(disk["id"])
    for each in (path, path.with_suffix(".part"), path.with_suffix(".copy"), _copy_socket(host, disk)):
        each.unlink(missing_ok=True)
    with to.catalog.transaction() as connection:
        connection.execute("DELETE FROM server_disks WHERE id = %s", (disk["id"],))
        connection.execute("DELETE FROM holds WHERE holder = %s", (disk["id"],))


def give_secrets(to: Systems, libvirt: Any, disks: list[Row]) -> None:
    """Let libvirt know the keys of the disks that have one; it keeps them in memory alone."""
    for disk in disks:
        if disk["disk_key"] is not None:
            overlay.give_secret(libvirt, disk["id"], diskkeys.disk_key(to, disk["id"]))


def as_disk(host: Host, disk: Row) -> Disk:
    """A disk of a domain."""
    kind: Literal["qcow2"] = "qcow2"
    secret = disk["id"] if disk["disk_key"] else None
    return Disk(host.disk(disk["id"]), kind, disk["target"], cdrom=disk["medium"], secret=secret)


def at_rest(to: Systems, host: Host, disk: Row) -> atrest.Own:
    """What it takes to read the file of a disk that no guest uses; raises the errors of the key manager."""
    passphrase = overlay.passphrase(diskkeys.disk_key(to, disk["id"]))
    return atrest.Own(passphrase, lambda: keeping.serve(to, host, disk["id"]))


def _copy(to: Systems, host: Host, disk: Row, key: bytes, progress: Progress) -> None:
    """Copy all of the image's disk; a copy that was killed begins again."""
    path, socket = host.disk(disk["id"]), _copy_socket(host, disk)
    part = path.with_suffix(".copy")
    for stale in (path, part, socket):
        stale.unlink(missing_ok=True)
    table = manifest.read(to.store, disk["image_id"], disk["image_disk"], disk["manifest_digest"])
    locate = reading.locator(to.catalog, disk["image_id"])
    reader = DiskReader(to.store, table, diskkeys.data_key(to, disk["id"]), locate)
    try:
        with NbdServer(reader, socket) as server:
            overlay.create(part, disk["size"], key)
            process = overlay.copying(part, socket, key)
            try:
                while process.poll() is None:
                    progress(min(part.stat().st_blocks * 512, reader.size), reader.size)
                    time.sleep(_POLL)
                if server.errors:
                    raise server.errors[0]
                overlay.ended(part, process)
            finally:
                process.kill()
    finally:
        reader.close()
    part.rename(path)


def _copy_socket(host: Host, disk: Row) -> Path:
    return host.run / f"{disk['id'].hex}.c"
