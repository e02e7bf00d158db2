"""A full-server image as files: one for each disk, the OVF that describes them, and the manifest of their digests."""

import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from darkroom import leftovers, ovf, qemu, rawdisk, reading, rules
from darkroom.catalog import Row, images
from darkroom.systems import Systems

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Package:
    """The files of a full-server image in a folder, and the SHA-256 of each by its name."""

    folder: Path
    description: Path
    disks: list[Path]
    manifest: Path
    digests: dict[str, str]


@contextmanager
def folder_of(to: Systems, row: Row, parent: Path, format: str, progress: Progress) -> Iterator[Package]:
    """Write the files to a hidden folder in `parent`, which is removed at the end unless it was renamed.

    Raises ConvertError, DamagedError, NameInvalidError.
    """
    folder = Path(tempfile.mkdtemp(prefix=leftovers.prefix(), dir=parent))
    try:
        folder.chmod(0o755)
        yield _written(to, row, folder, format, progress)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _written(to: Systems, row: Row, folder: Path, format: str, progress: Progress) -> Package:
    rules.check_name(row["name"])  # it may be an image that another project shares, and names files here
    disks, files, done = [], [], 0
    for disk in images.disks(to.catalog, row["id"]):
        name = f"{row['name']}-disk{disk['number']}.{'vmdk' if format == 'stream' else format}"
        path = folder / name
        with reading.open_disk(to, row, disk["number"]) as reader:
            qemu.convert(reader, path, format, progress=_shifted(progress, done, row["virtual_size"]))
        done += disk["virtual_size"]
        disks.append(path)
        files.append(ovf.File(name, path.stat().st_size, disk["virtual_size"], format))
    description = folder / f"{row['name']}.ovf"
    description.write_bytes(ovf.encode(_server(row, images.disks(to.catalog, row["id"])[0]), files))
    digests = {path.name: rawdisk.sha256(path) for path in (description, *disks)}
    manifest = folder / f"{row['name']}.mf"
    manifest.write_text("".join(f"SHA256({name})= {digest}\n" for name, digest in digests.items()))
    return Package(folder, description, disks, manifest, digests)


def _shifted(progress: Progress, before: int, total: int) -> Progress:
    return lambda done, _: progress(before + done, total)


def _server(row: Row, system: Row) -> ovf.Server:
    properties = row["properties"]
    memory = properties.get("min_ram") or ovf.MEMORY
    mode = properties.get("boot_mode") or ("uefi" if system["partitions"].get("esp") else "bios")
    return ovf.Server(row["name"], properties.get("os_version", ""), memory, mode)


def write_ova(to: Systems, row: Row, path: Path, progress: Progress) -> None:
    """Write all files as one OVA: description, manifest, disks, as the standard orders them. A packed file goes."""
    with folder_of(to, row, path.parent, "stream", progress) as made:
        with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
            for file in (made.description, made.manifest, *made.disks):
                info = tarfile.TarInfo(file.name)
                info.size, info.mtime = file.stat().st_size, int(row["created_at"].timestamp())
                with open(file, "rb") as opened:
                    archive.addfile(info, opened)
                file.unlink()
