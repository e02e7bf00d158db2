"""The file of a server's disk: a qcow2 over the image's NBD export, or a full copy of it.

The file of a disk from an encrypted image has a LUKS layer of its own, so that nothing of it is on the host in the
clear. Its key goes to QEMU's tools through a pipe, to libvirt as a secret that it keeps in memory alone.
"""

import subprocess
from pathlib import Path
from typing import Any
from uuid import UUID
from xml.sax.saxutils import escape

import libvirt

from darkroom import qemu
from darkroom.compute import connection, sealedfile
from darkroom.errors import DarkroomError

_SECTOR = 512
_TIMEOUT = 60


class OverlayError(DarkroomError):
    """QEMU's tool cannot make the file of a disk."""

    code = "disk-file"
    what = "the file of the disk cannot be made"
    default_remedy = "see `darkroom host check`"


def uri(socket: Path) -> str:
    """The address of an export on a unix socket."""
    return f"nbd+unix:///?socket={socket}"


def create(path: Path, size: int, key: bytes, backing: Path | None = None) -> None:
    """Make the file of a disk of `size` bytes, over the export on `backing` if there is one; under `key` if not empty.

    A file that is there is left alone: what made it wrote it whole. The export is not opened for it.
    """
    if path.exists():
        return
    size = -(-size // _SECTOR) * _SECTOR
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    if key:
        sealedfile.write(part, size, passphrase(key), uri(backing) if backing else "")
    else:
        words = ["-u", "-F", "raw", "-b", uri(backing)] if backing else []
        _run(["qemu-img", "create", "-q", "-f", "qcow2", *words, str(part), str(size)], path)
    part.chmod(0o600)
    part.rename(path)


def copying(path: Path, source: Path, key: bytes) -> subprocess.Popen[bytes]:
    """Begin to copy the export on the socket `source` into the file of a disk, which exists."""
    with qemu.secret(passphrase(key)) as (options, descriptors):
        target = ["-n", "--target-image-opts", *options, uri(source), _image(path, key)]
        return _begin(["qemu-img", "convert", "-f", "raw", *target], descriptors)


def flattening(path: Path, key: bytes) -> subprocess.Popen[bytes]:
    """Begin to take into a file that no guest uses what it has not yet from its backing, and then let go of that."""
    with qemu.secret(passphrase(key)) as (options, descriptors):
        words = ["qemu-img", "rebase", "--image-opts", *options, "-b", "", "-F", "raw", _image(path, key)]
        return _begin(words, descriptors)


def ended(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait for a copy to end; raises OverlayError if it failed."""
    _, said = process.communicate()
    if process.returncode:
        raise OverlayError(str(path), "", said.decode(errors="replace").strip() or f"exit code {process.returncode}")


def give_secret(host: Any, disk: UUID, key: bytes) -> UUID:
    """Let libvirt know the key of a disk, in memory alone; the secret has the disk's own id."""
    text = f"""<secret ephemeral='yes' private='yes'><uuid>{disk}</uuid>
        <usage type='volume'><volume>{escape(f"darkroom {disk}")}</volume></usage></secret>"""
    with connection.errors(str(disk)):
        host.secretDefineXML(text).setValue(passphrase(key))
    return disk


def forget_secret(host: Any, disk: UUID) -> None:
    """Undo `give_secret`."""
    try:
        host.secretLookupByUUIDString(str(disk)).undefine()
    except libvirt.libvirtError:
        pass  # there is none: the image was plain, or libvirt was started anew


def passphrase(key: bytes) -> bytes:
    """What opens the LUKS layer of a disk with this key: text, for libvirt and QEMU take no other. Empty for none."""
    return key.hex().encode()


def _image(path: Path, key: bytes) -> str:
    return f"driver=qcow2,{'encrypt.key-secret=key,' if key else ''}file.driver=file,file.filename={path}"


def _run(words: list[str], path: Path) -> None:
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OverlayError(str(path), "", str(error)) from error
    if done.returncode:
        raise OverlayError(str(path), "", done.stderr.strip())


def _begin(words: list[str], descriptors: list[int]) -> subprocess.Popen[bytes]:
    null = subprocess.DEVNULL
    return subprocess.Popen(words, stdin=null, stdout=null, stderr=subprocess.PIPE, pass_fds=descriptors)
