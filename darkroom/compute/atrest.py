"""A disk of a domain that does not run: read from its file, with a lock that keeps QEMU from writing to it."""

import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from darkroom import formats, qemu
from darkroom.compute import overlay
from darkroom.compute.backup import Disk
from darkroom.compute.connection import DomainStateError
from darkroom.errors import RefusedError
from darkroom.formats import Inspection
from darkroom.model import Reader
from darkroom.settings import Settings
from darkroom.sources import Source, local

_WRITES, _LETS_NOBODY_WRITE = 101, 201
"""Bytes of a file that QEMU locks (block/file-posix.c): held by who writes, held by who lets nobody write."""
_LOCK = struct.Struct("hhqqi4x")
_HEADER = struct.Struct(">8xQI4xQ")
"""Of a qcow2: where the name of its backing file is, or 0, and how long; the guest-visible size."""
_LONGEST_NAME = 1023


class DiskKindError(RefusedError):
    """A disk of a server at rest that is neither a file nor a block device, or not of a format that is read."""

    code = "disk-kind"
    what = "this disk of a stopped server cannot be read"
    default_remedy = "start the server, and capture it while it runs"


@dataclass(frozen=True, slots=True)
class Own:
    """What is known of a disk that Darkroom made: what opens its file, if it is sealed, else b"".

    `export` has served what the file has not yet of its image, and returns the socket.
    """

    passphrase: bytes
    export: Callable[[], Path]


@contextmanager
def open_disk(
    disk: Disk, folder: Path, settings: Settings, own: Own | None = None, *, since: str = ""
) -> Iterator[Reader]:
    """The guest-visible bytes, in the format that libvirt states; whatever a guest wrote to its raw disk is data.

    Only of an `own` disk is the file sealed, or read over what its image has. With `since`, a checkpoint, the data
    extents of a qcow2 are what has changed since then; SourceUnreadableError where its bitmap is missing or broken.
    While it is open, QEMU cannot start a guest with the disk. Raises DiskKindError, DomainStateError if something
    writes to it, and SourceChangedError at the end if it is not what it was.
    """
    if not disk.path or disk.format not in ("raw", "qcow2"):
        raise DiskKindError(disk.target, "a raw or qcow2 file or device", f"{disk.format} {disk.path}")
    with local.open_path(Path(disk.path)) as source:
        _lock(source, disk)
        with _view(source, disk, folder, settings, own, since) as reader:
            yield reader
            source.check_unchanged()


def _view(
    source: Source, disk: Disk, folder: Path, settings: Settings, own: Own | None, bitmap: str
) -> AbstractContextManager[Reader]:
    if own:
        size, export = _own(source, disk, own)
        found, passphrase = Inspection("qcow2", size), own.passphrase
        return qemu.serve(source, found, folder, passphrase=passphrase, backing=export, bitmap=bitmap)
    if disk.format == "raw":
        return nullcontext(source.reader)
    return qemu.serve(source, _qcow2(source, disk, settings), folder, bitmap=bitmap)


def _own(source: Source, disk: Disk, own: Own) -> tuple[int, Path | None]:
    """The size of the disk, and the socket of what its file lies over, if anything.

    Darkroom wrote the header; a guest that broke into its QEMU could have written another.
    """
    at, length, size = _HEADER.unpack(source.reader.read(0, _HEADER.size))
    if not at:
        return size, None
    export = own.export()
    name, ours = source.reader.read(at, min(length, _LONGEST_NAME)), overlay.uri(export).encode()
    if name != ours:
        raise DiskKindError(disk.target, ours.decode(), name.decode(errors="replace"))
    return size, export


def _qcow2(source: Source, disk: Disk, settings: Settings) -> Inspection:
    try:
        return formats.inspect(source.reader, disk.format, source.name, settings.limits)
    except RefusedError as error:
        raise DiskKindError(disk.target, "a qcow2 of its own, whole and in the clear", error.code) from error


def _lock(source: Source, disk: Disk) -> None:
    """Let nobody write for as long as the descriptor is open, however this process ends."""
    assert source.fd is not None
    fcntl.fcntl(source.fd, fcntl.F_OFD_SETLK, _LOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, _LETS_NOBODY_WRITE, 1, 0))
    asked = fcntl.fcntl(source.fd, fcntl.F_OFD_GETLK, _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _WRITES, 1, 0))
    if _LOCK.unpack(asked)[0] != fcntl.F_UNLCK:
        raise DomainStateError(disk.path, "a disk that nothing writes to", "one that is in use")
