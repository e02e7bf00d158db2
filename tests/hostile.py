"""Disk image files that must be refused, made from real ones by changing some bytes.

`catalogue` writes them all. Whatever can name another file names the canary: a file on the host whose content must
appear nowhere.
"""

import functools
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SECRET = b"canary-4f1c9d2e-of-the-host"

Patch = tuple[int, str, int | tuple[int, ...]]
"""Offset, struct format and value, or values."""
Entry = tuple[str, str, str, bytes]
"""Name, declared format, the code that refuses it, and content."""


@dataclass(frozen=True)
class Case:
    name: str
    path: Path
    declared: str
    code: str


def write_canary(path: Path) -> Path:
    """A raw disk of 1 MiB, full of the secret."""
    path.write_bytes((SECRET + b"\n").ljust(64, b".") * (1 << 14))
    return path


def catalogue(folder: Path, canary: Path) -> list[Case]:
    """Write every hostile file below `folder`."""
    from tests import hostile_others, hostile_qcow, hostile_vmdk

    folder.mkdir(parents=True, exist_ok=True)
    cases = []
    for module in (hostile_qcow, hostile_vmdk, hostile_others):
        for name, declared, code, content in module.entries(canary):
            suffix = {"raw": "img"}.get(declared, declared or name.partition("-")[0])
            path = folder / f"{name}.{suffix}"
            assert not path.exists(), f"two cases of the name {name}"
            write_sparse(path, content)
            cases.append(Case(name, path, declared, code))
    return cases


@functools.cache
def base(driver: str, size: str, *options: str, write: str = "") -> bytes:
    """A real image, made by qemu-img; `write` are the arguments of a qemu-io write into it."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/disk"
        create = ["qemu-img", "create", "-q", "-f", driver, *(["-o", ",".join(options)] if options else [])]
        subprocess.run([*create, path, size], check=True)
        if write:
            command = ["qemu-io", "-f", driver, "-c", f"write {write}", path]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return Path(path).read_bytes()


def patched(content: bytes, *patches: Patch) -> bytes:
    changed = bytearray(content)
    for offset, layout, value in patches:
        struct.pack_into(layout, changed, offset, *(value if isinstance(value, tuple) else (value,)))
    return bytes(changed)


def field(content: bytes, offset: int, layout: str) -> int:
    return struct.unpack_from(layout, content, offset)[0]


def replaced(content: bytes, offset: int, data: bytes) -> bytes:
    return content[:offset] + data + content[offset + len(data) :]


def write_sparse(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        for at in range(0, len(content), 1 << 16):
            piece = content[at : at + (1 << 16)]
            if piece.strip(b"\0"):
                file.seek(at)
                file.write(piece)
        file.truncate(len(content))


def named(prefix: str, declared: str, content: bytes, table: dict[str, tuple[str, list[Patch]]]) -> Iterator[Entry]:
    """An entry for each line of a table: name, code, and what is changed."""
    for name, (code, patches) in table.items():
        yield f"{prefix}-{name}", declared, code, patched(content, *patches)
