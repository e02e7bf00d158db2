"""A throw-away guest: it boots on overlays over exports, on its own, and leaves nothing.

It has no network. What it writes to its serial port is read as it comes, and the last of it kept: a guest that floods
the port waits for the reader. Its writes are slowed down and counted, and it ends when they are too many.
"""

import json
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import libvirt
import libvirt_qemu

from darkroom.compute import agent, connection, domain, guard, hosts, overlay
from darkroom.compute.domain import Disk, Domain
from darkroom.errors import DarkroomError
from darkroom.model import KiB, MiB

PREFIX = "darkroom-proof-"
"""What the names of these guests begin with."""
SERIAL_LIMIT = 64 * KiB
"""What is kept of the serial port's output, in bytes: the last."""
_WRITES_PER_SECOND = 64 * MiB
_SECTOR = 512
_PIECE = 64 * KiB
_BALLOON = "/machine/peripheral/balloon0/virtio-backend"


class OverfullError(DarkroomError):
    """The guest has written more than a boot needs."""

    code = "guest-writes"
    what = "the guest wrote more to its disks than it may"


@dataclass(frozen=True, slots=True)
class Export:
    """A disk to boot from, or a medium: the socket of an export, and its size in bytes."""

    socket: Path
    size: int
    medium: bool = False


@dataclass(frozen=True, slots=True)
class Shape:
    """What the guest is made of: memory in MiB, and whether it boots by UEFI."""

    memory: int
    uefi: bool


class Guest:
    """A guest that runs; `serial` is the last of what it wrote to its serial port, `serial_size` how much that was."""

    def __init__(self, host: Any, uuid: UUID, terminal: socket.socket, overlays: Sequence[Path], limit: int) -> None:
        self.serial = b""
        self.serial_size = 0
        self._host, self._uuid, self._terminal = host, uuid, terminal
        self._overlays, self._limit = overlays, limit

    def wait(self, seconds: float) -> None:
        """Take what the guest writes for this long; raises OverfullError."""
        self._terminal.settimeout(seconds)
        with suppress(TimeoutError, BlockingIOError):
            piece = self._terminal.recv(_PIECE)
            self.serial_size += len(piece)
            self.serial = (self.serial + piece)[-SERIAL_LIMIT:]
        written = sum(path.stat().st_blocks * _SECTOR for path in self._overlays)
        if written > self._limit:
            raise OverfullError("overlays", f"at most {self._limit >> 20} MiB", f"{written >> 20} MiB")

    def is_running(self) -> bool:
        """Whether it still runs; one that waits for a disk that cannot be read does not."""
        return domain.is_running(self._host, self._uuid)

    def has_agent(self) -> bool:
        """Whether the guest agent answers."""
        try:
            agent.ask(domain.lookup(self._host, self._uuid), "guest-ping", 1)
            return True
        except (libvirt.libvirtError, DarkroomError):
            return False

    def has_drivers(self) -> bool:
        """Whether an operating system runs: it drives the balloon, which no firmware and no boot loader does."""
        asked = {"execute": "x-query-virtio-status", "arguments": {"path": _BALLOON}}
        with suppress(libvirt.libvirtError, DarkroomError, KeyError):
            found = domain.lookup(self._host, self._uuid)
            said = json.loads(libvirt_qemu.qemuMonitorCommand(found, json.dumps(asked), 0))
            return any("DRIVER_OK" in each for each in said["return"]["status"]["statuses"])
        return False

    def screenshot(self) -> bytes:
        """What the screen shows, as PNG; b"" if it shows nothing any more."""
        try:
            return domain.screenshot(self._host, self._uuid)
        except DarkroomError:
            return b""


@contextmanager
def running(
    host: hosts.Host, uuid: UUID, exports: Sequence[Export], shape: Shape, folder: Path, limit: int, key: bytes
) -> Iterator[Guest]:
    """A guest for the block; `limit` bounds what it writes to its disks, in bytes; `key` seals the overlays if given.

    At the end, and when this process dies, the guest and `folder`, which exists, are gone.
    """
    terminal = folder / "serial"
    with ExitStack() as stack:
        libvirt_host = stack.enter_context(connection.open(host.uri))
        stack.enter_context(guard.guarded(host.uri, "guest", uuid, folder))
        stack.callback(tidy, libvirt_host, uuid, folder)
        disks = []
        for number, export in enumerate(exports):
            path = folder / f"{number}.qcow2"
            overlay.create(path, export.size, key, export.socket)
            own(libvirt_host, path)
            secret = overlay.give_secret(libvirt_host, uuid, key) if key else None
            target = f"{'sd' if export.medium else 'vd'}{chr(ord('a') + number)}"
            disks.append(Disk(path, "qcow2", target, cdrom=export.medium, secret=secret))
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(terminal))
        listener.listen(1)
        listener.settimeout(60)
        own(libvirt_host, terminal)
        made = Domain(
            uuid,
            f"{PREFIX}{uuid.hex[:8]}",
            tuple(disks),
            "kvm" if host.accelerator == "kvm" else "tcg",
            cpus=2,
            memory=shape.memory,
            uefi=folder / "uefi.fd" if shape.uefi else None,
            terminal=terminal,
            transient=True,
        )
        domain.start(libvirt_host, made)
        # One that has ended by itself already writes no more.
        with suppress(connection.DomainMissingError, connection.DomainStateError), connection.errors(made.name):
            found = domain.lookup(libvirt_host, uuid)
            for disk in disks:
                found.setBlockIoTune(disk.target, {"write_bytes_sec": _WRITES_PER_SECOND}, 0)
        connected, _ = listener.accept()
        stack.enter_context(connected)
        yield Guest(libvirt_host, uuid, connected, [disk.path for disk in disks], limit)


def own(libvirt_host: Any, path: Path) -> None:
    """Give a file, a socket or a folder to the account that QEMU runs as."""
    shutil.chown(path, *domain.account(libvirt_host))


def tidy(libvirt_host: Any, uuid: UUID, folder: Path) -> None:
    """Remove the guest, its secret and its files; what is not there is gone."""
    domain.remove(libvirt_host, uuid)
    overlay.forget_secret(libvirt_host, uuid)
    shutil.rmtree(folder, ignore_errors=True)
