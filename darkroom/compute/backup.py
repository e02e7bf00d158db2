"""Backups: all disks of a domain at one instant, while it runs on, as NBD exports (libvirt's pull mode).

QEMU keeps what the guest overwrites meanwhile in scratch files. A checkpoint begins with the backup: a bitmap in each
qcow2 that notes what changes from then on, so that a later backup can tell it apart. A guest with an agent has its
file systems frozen for the instant.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID
from xml.etree import ElementTree

import libvirt

from darkroom.compute import agent, connection, domain, guard
from darkroom.nbd import client

PREFIX = "darkroom-"
"""What the names of our checkpoints begin with; the rest is the id of the image that was captured."""
_BROKEN = {libvirt.VIR_ERR_CHECKPOINT_INCONSISTENT, libvirt.VIR_ERR_NO_DOMAIN_CHECKPOINT}
_BUSY = "blockjob"
"""What libvirt says of a disk that is copied, mirrored or filled from its backing."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk as libvirt states it: its name in the guest, the file or device ("" if it is neither), its format."""

    target: str
    path: str
    format: str


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup in progress: the exports of `targets` are on `socket`.

    `changed` holds the targets of which the export tells what has changed since the earlier checkpoint; `note` what is
    wrong with its bitmaps.
    """

    socket: Path
    frozen: bool
    changed: frozenset[str]
    note: str

    def uri(self, target: str) -> str:
        """The address of a disk's export."""
        return f"nbd+unix:///{target}?socket={self.socket}"

    def open_disk(self, target: str) -> client.NbdReader:
        """The guest-visible bytes of a disk at the instant."""
        return client.connect(self.uri(target))

    def open_changes(self, target: str) -> client.NbdReader:
        """A reader whose data extents are what has changed since the earlier checkpoint."""
        return client.connect(self.uri(target), 1, bitmap=f"changed-{target}")


def disks(host: Any, uuid: UUID) -> list[Disk]:
    """The disks that a guest can write to, in the order of its description."""
    found = domain.lookup(host, uuid)
    with connection.errors(found.name()):
        root = ElementTree.fromstring(found.XMLDesc(0))  # noqa: S314 - libvirt's own words
    result = []
    for disk in root.iterfind("./devices/disk"):
        driver, source, target = disk.find("driver"), disk.find("source"), disk.find("target")
        if disk.get("device", "disk") in ("disk", "lun") and disk.find("readonly") is None and target is not None:
            place = source.get("file") or source.get("dev") or "" if source is not None else ""
            stated = driver.get("type", "raw") if driver is not None else "raw"
            result.append(Disk(target.get("dev", ""), place, stated))
    return result


@contextmanager
def running(host: Any, uuid: UUID, wanted: Sequence[Disk], folder: Path, name: str, since: str) -> Iterator[Backup]:
    """A backup of a domain that runs, for the block. Its checkpoint is `name`; it stays if the block ends well.

    `since` is an earlier checkpoint, or "": where its bitmaps are missing or broken, the backup is a full one. When the
    block ends, and when this process dies, the job ends and `folder`, which it makes, goes. Raises DomainStateError if
    the domain does not run, DomainBusyError while it has another job, ThawError.
    """
    found = domain.lookup(host, uuid)
    guard.sweep(host, folder.parent)
    tidy(host, uuid, folder, name)
    _require_idle(found)
    folder.mkdir(parents=True, mode=0o711)
    os.chown(folder, *domain.account(host))
    with guard.guarded(host.getURI(), "backup", uuid, folder, name):
        kept = False
        try:
            yield _begin(found, wanted, folder, name, since)
            kept = True
        finally:
            tidy(host, uuid, folder, "" if kept else name)


def _begin(found: Any, wanted: Sequence[Disk], folder: Path, name: str, since: str) -> Backup:
    note = ""
    bitmaps = frozenset(disk.target for disk in wanted if disk.format == "qcow2")
    if since and not (bitmaps and _has_checkpoint(found, since)):
        since = ""
    checkpoint = _checkpoint(wanted, name) if bitmaps else None
    frozen = agent.freeze(found)
    try:
        with connection.errors(found.name()):
            try:
                found.backupBegin(_description(wanted, folder, since), checkpoint)
            except libvirt.libvirtError as error:
                if _BUSY in error.get_error_message().replace("block job", _BUSY):
                    raise connection.DomainBusyError(found.name(), "", "a disk that is not whole yet") from error
                if not since or error.get_error_code() not in _BROKEN:
                    raise
                since, note = "", "the bitmap of what changed is broken: all was read"
                found.backupBegin(_description(wanted, folder, since), checkpoint)
    finally:
        if frozen:
            agent.thaw(found)
    return Backup(folder / "socket", frozen, bitmaps if since else frozenset(), note)


def _require_idle(found: Any) -> None:
    """Refuse at once what libvirt refuses after half a minute: a domain has one backup at a time."""
    with suppress(libvirt.libvirtError):
        found.backupGetXMLDesc()
        raise connection.DomainBusyError(found.name(), "", "a backup in progress")


def _description(wanted: Sequence[Disk], folder: Path, since: str) -> str:
    root = ElementTree.Element("domainbackup", mode="pull")
    ElementTree.SubElement(root, "server", transport="unix", socket=str(folder / "socket"))
    listed = ElementTree.SubElement(root, "disks")
    for disk in wanted:
        entry = ElementTree.SubElement(listed, "disk", name=disk.target, backup="yes", type="file")
        entry.set("exportname", disk.target)
        if since and disk.format == "qcow2":
            entry.attrib.update(backupmode="incremental", incremental=since, exportbitmap=f"changed-{disk.target}")
        else:
            entry.set("backupmode", "full")
        ElementTree.SubElement(entry, "scratch", file=str(folder / f"{disk.target}.scratch"))
    return ElementTree.tostring(root, encoding="unicode")


def _checkpoint(wanted: Sequence[Disk], name: str) -> str:
    root = ElementTree.Element("domaincheckpoint")
    ElementTree.SubElement(root, "name").text = name
    listed = ElementTree.SubElement(root, "disks")
    for disk in wanted:
        kind = "bitmap" if disk.format == "qcow2" else "no"
        ElementTree.SubElement(listed, "disk", name=disk.target, checkpoint=kind)
    return ElementTree.tostring(root, encoding="unicode")


def _has_checkpoint(found: Any, name: str) -> bool:
    return any(checkpoint.getName() == name for checkpoint in found.listAllCheckpoints())


def tidy(host: Any, uuid: UUID, folder: Path, checkpoint: str) -> None:
    """End a backup whose files are in `folder`, thaw the guest it may have left frozen, and forget its checkpoint."""
    with suppress(connection.DomainMissingError):
        found = domain.lookup(host, uuid)
        if folder.exists():
            with suppress(libvirt.libvirtError):  # there is no backup
                if str(folder) in found.backupGetXMLDesc():
                    found.abortJob()
            if agent.is_frozen(found):
                agent.thaw(found)
        if checkpoint:
            _forget(found, checkpoint)
    shutil.rmtree(folder, ignore_errors=True)


def prune(host: Any, uuid: UUID, keep: Sequence[str]) -> None:
    """Forget our checkpoints of a domain but those to `keep`: each costs the guest's writes a little."""
    found = domain.lookup(host, uuid)
    with connection.errors(found.name()):
        names = [checkpoint.getName() for checkpoint in found.listAllCheckpoints()]
    for name in names:
        if name.startswith(PREFIX) and name not in keep:
            _forget(found, name)


def _forget(found: Any, name: str) -> None:
    """Delete a checkpoint with its bitmaps; of one whose bitmaps are broken, or of a domain at rest, the record."""
    for flags in (0, libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY):
        with suppress(libvirt.libvirtError):
            found.checkpointLookupByName(name).delete(flags)
            return
