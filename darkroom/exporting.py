"""Export: an image goes out as a file of any format, to a path or a bucket, with its SHA-256 beside it.

A full-server image goes out as a folder with a file for each disk and an OVF, or as one OVA.
"""

import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from darkroom import leftovers, package, qemu, rawdisk, reading, store
from darkroom.catalog import Row, images
from darkroom.errors import ConflictError, MissingError, RefusedError
from darkroom.model import MiB
from darkroom.systems import Systems

FORMATS = ("qcow2", "raw", "vmdk", "vhd", "vhdx", "vdi")
_PIECE = 4 * MiB

Progress = Callable[[int, int], None]


class TargetExistsError(ConflictError):
    """The file to export to exists already; nothing is overwritten."""

    code = "target-exists"
    what = "the file exists already"
    default_remedy = "choose another name, or remove it first"


class TargetFolderError(MissingError):
    """The folder to export to does not exist."""

    code = "folder-not-found"
    what = "the folder of the file to write does not exist"


class ExportFormatError(RefusedError):
    """A format that cannot be written."""

    code = "export-format"
    what = "this format cannot be written"
    exit_code = 2


def export(to: Systems, image: str, target: str, format: str, progress: Progress) -> dict[str, Any]:
    """Write an active image to `target`, a path or s3://bucket/key, and its SHA-256 to `target`.sha256.

    A full-server image becomes a folder, or an OVA if `target` ends so; `format` "" is vmdk then, raw of an ISO, else
    qcow2. It appears under its name only when it is whole. Raises NotReadableError, TargetExistsError,
    TargetFolderError, ExportFormatError, and DamagedError where the store's bytes are not what was written.
    """
    row = images.get(to.catalog, image)
    reading.require_active(row)
    full = row["type"] == "full"
    format = format or {"full": "vmdk", "iso": "raw"}.get(row["type"], "qcow2")
    if format not in FORMATS:
        raise ExportFormatError(format, " ".join(FORMATS), format)
    if full and target.endswith(".ova") and format != "vmdk":
        raise ExportFormatError(target, "vmdk in an OVA", format)
    if target.startswith("s3://"):
        if full and not target.endswith(".ova"):
            raise ExportFormatError(target, "a name that ends in .ova for a full-server image in a bucket", target)
        return _export_to_bucket(to, row, target, format, progress)
    path = Path(target).absolute()
    if path.exists():
        raise TargetExistsError(str(path))
    if not path.parent.is_dir():
        raise TargetFolderError(str(path.parent))
    leftovers.sweep(path.parent)
    if full and not target.endswith(".ova"):
        return _export_to_folder(to, row, path, format, progress)
    part = path.with_name(f"{leftovers.prefix()}{secrets.token_hex(4)}.part")
    try:
        digest = _write(to, row, part, format, progress)
        # A link, unlike a rename, does not replace a file that has appeared meanwhile.
        try:
            os.link(part, path)
        except FileExistsError:
            raise TargetExistsError(str(path)) from None
    finally:
        part.unlink(missing_ok=True)
    path.with_name(path.name + ".sha256").write_text(f"{digest}  {path.name}\n")
    return _result(row, str(path), format, path.stat().st_size, digest)


def _export_to_folder(to: Systems, row: Row, path: Path, format: str, progress: Progress) -> dict[str, Any]:
    with package.folder_of(to, row, path.parent, format, progress) as made:
        for file in sorted(made.folder.iterdir()):
            if file != made.manifest:
                file.with_name(file.name + ".sha256").write_text(f"{made.digests[file.name]}  {file.name}\n")
        size = sum(file.stat().st_size for file in made.folder.iterdir())
        digest = hashlib.sha256(made.manifest.read_bytes()).hexdigest()
        try:
            made.folder.rename(path)
        except OSError:
            raise TargetExistsError(str(path)) from None
    return _result(row, str(path), format, size, digest)


def _export_to_bucket(to: Systems, row: Row, target: str, format: str, progress: Progress) -> dict[str, Any]:
    address, _, name = target.rpartition("/")
    bucket = store.open_store(address, to.settings)
    if any(key == name for key, _ in bucket.list(name)):
        raise TargetExistsError(target)
    folder = to.settings.spool
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    leftovers.sweep(folder)
    part = folder / f"{leftovers.prefix()}{secrets.token_hex(4)}.part"
    try:
        digest = _write(to, row, part, format, progress)
        size = part.stat().st_size
        bucket.put(name, _pieces(part), size)
    finally:
        part.unlink(missing_ok=True)
    line = f"{digest}  {name}\n".encode()
    bucket.put(name + ".sha256", [line], len(line))
    return _result(row, target, format, size, digest)


def _write(to: Systems, row: Row, path: Path, format: str, progress: Progress) -> str:
    if row["type"] == "full":
        package.write_ova(to, row, path, progress)
    else:
        with reading.open_disk(to, row) as reader:
            qemu.convert(reader, path, format, progress=progress)
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    return rawdisk.sha256(path)


def _pieces(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def _result(row: Row, target: str, format: str, size: int, digest: str) -> dict[str, Any]:
    return {
        "image": str(row["id"]),
        "target": target,
        "format": format,
        "size": size,
        "virtual_size": row["virtual_size"],
        "sha256": digest,
    }
