"""Small sources for a migration: disks of a few MiB with data of their own and data in common, in several formats."""

import csv
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

MIB = 1 << 20
FORMATS = ("raw", "qcow2", "vmdk", "vhdx", "vdi")
_QEMU = {"vhd": "vpc"}


def make(folder: Path, count: int, *, size: int = 4 * MIB, own: int = 128 * 1024, broken_every: int = 0) -> Path:
    """Make `count` sources and their table, of which one in `broken_every` is broken; the table's path.

    Each disk has 1 MiB that all have, `own` bytes that none has, and zeros. The broken ones go through WAYS in order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    common = random.Random(0).randbytes(MIB)
    table = folder / "sources.csv"
    with open(table, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("source", "name", "type", "format", "key", "tag:batch"))
        for number in range(count):
            kind = FORMATS[number % len(FORMATS)]
            path = folder / f"disk-{number:05}.{kind}"
            if broken_every and number % broken_every == broken_every - 1:
                path, kind = folder / f"broken-{number:05}.qcow2", ""
                WAYS[number // broken_every % len(WAYS)][0](path)
            elif not path.exists():
                _disk(path, kind, size, common, own, number)
            rows.writerow((path.name, f"disk-{number:05}", "data", kind, "", "bench"))
    return table


def _disk(path: Path, kind: str, size: int, common: bytes, own: int, number: int) -> None:
    raw = path.with_suffix(".part")
    with open(raw, "wb") as file:
        file.truncate(size)
        file.write(common)
        file.seek(min(size // 2, size - own))
        file.write(random.Random(number + 1).randbytes(own))
    if kind == "raw":
        raw.rename(path)
        return
    command = ["qemu-img", "convert", "-f", "raw", "-O", _QEMU.get(kind, kind), raw, path]
    subprocess.run(command, check=True)
    raw.unlink()


def _create(path: Path, *options: str) -> None:
    subprocess.run(["qemu-img", "create", "-q", *options[:-1], path, options[-1]], check=True)


def _patch(path: Path, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def _gone(path: Path) -> None:
    path.unlink(missing_ok=True)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _backing(path: Path) -> None:
    _create(path, "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd", "-u", "1G")


def _cut(path: Path) -> None:
    _create(path, "-f", "qcow2", "64M")
    with open(path, "r+b") as file:
        file.truncate(1000)


def _other(path: Path) -> None:
    path.write_bytes(b"no disk image at all" * 100)


def _polyglot(path: Path) -> None:
    _create(path, "-f", "qcow2", "64M")
    _patch(path, 0x8001, b"CD001")


def _encrypted(path: Path) -> None:
    _create(path, "-f", "qcow2", "4M")
    _patch(path, 32, (2).to_bytes(4, "big"))  # the header's crypt method: LUKS


def _dirty(path: Path) -> None:
    _create(path, "-f", "qcow2", "-o", "lazy_refcounts=on", "4M")
    _patch(path, 72, (1).to_bytes(8, "big"))  # incompatible feature bit 0: it was not closed


def _snapshots(path: Path) -> None:
    _create(path, "-f", "qcow2", "64M")
    subprocess.run(["qemu-img", "snapshot", "-c", "one", path], check=True)


def _folder(path: Path) -> None:
    path.mkdir(exist_ok=True)


WAYS: tuple[tuple[Callable[[Path], None], str], ...] = (
    (_gone, "source-not-found"),
    (_empty, "virtual-size"),
    (_backing, "external-reference"),
    (_cut, "header-invalid"),
    (_other, "format-mismatch"),
    (_polyglot, "polyglot"),
    (_encrypted, "encrypted-payload"),
    (_dirty, "not-clean"),
    (_snapshots, "internal-snapshots"),
    (_folder, "source-kind"),
)
"""How a source can be broken, and the code of the reason that its row shall have."""
