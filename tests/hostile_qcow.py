"""Hostile qcow2, qcow and QED files."""

import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.hostile import Entry, Patch, base, field, named, patched, replaced

EXTERNAL, INVALID, UNKNOWN = "external-reference", "header-invalid", "feature-unknown"
_FAR = 1 << 40
_NAME_AT = 0x800
_FEATURES, _COMPRESSION, _EXTENSIONS = 72, 104, 112


def entries(canary: Path) -> Iterator[Entry]:
    yield from _other_files(canary)
    yield from _qcow2()
    yield from _qcow2_tables()
    yield from _qcow2_real()
    yield from _qcow(canary)
    yield from _qed(canary)


def _other_files(canary: Path) -> Iterator[Entry]:
    names = {
        "absolute": f"{canary}",
        "relative": f"../../../../../../../../..{canary}",
        "json": f'json:{{"driver":"raw","file":{{"driver":"file","filename":"{canary}"}}}}',
        "file-url": f"file:{canary}",
        "nbd-url": "nbd://127.0.0.1:1/export",
    }
    for version in ("0.10", "1.1"):
        content = base("qcow2", "64M", f"compat={version}", write="0 64k")
        for kind, name in names.items():
            yield f"qcow2-{version}-backing-{kind}", "qcow2", EXTERNAL, with_backing(content, name)
            yield f"qcow2-{version}-data-file-{kind}", "qcow2", EXTERNAL, with_data_file(content, name)
    yield "qcow2-data-file-name-without-its-bit", "qcow2", EXTERNAL, with_data_file(content, str(canary), bit=False)
    yield "qcow2-data-file-bit-without-a-name", "qcow2", EXTERNAL, patched(content, (_FEATURES, ">Q", 4))


def with_backing(content: bytes, name: str) -> bytes:
    """The backing file's format is said to be raw, so that it opens whatever it is."""
    at = 72 if content[7] == 2 else _EXTENSIONS
    content = replaced(content, at, struct.pack(">II8sQ", 0xE2792ACA, 3, b"raw", 0))
    l2 = field(content, field(content, 40, ">Q"), ">Q") & 0x00FFFFFFFFFFFE00
    content = patched(content, (l2, ">Q", 0))  # so that what the guest sees first is the backing file's
    return patched(replaced(content, _NAME_AT, name.encode()), (8, ">QI", (_NAME_AT, len(name))))


def with_data_file(content: bytes, name: str, *, bit: bool = True) -> bytes:
    version = content[7]
    extension = struct.pack(">II", 0x44415441, len(name)) + name.encode().ljust(-(-len(name) // 8) * 8 + 8, b"\0")
    content = replaced(content, 72 if version == 2 else _EXTENSIONS, extension)
    if version == 2 or not bit:
        return content
    # Guest offsets are offsets in the data file.
    l2 = field(content, field(content, 40, ">Q"), ">Q") & 0x00FFFFFFFFFFFE00
    return patched(content, (_FEATURES, ">Q", 4), (l2, ">Q", 1 << 63))


def _qcow2() -> Iterator[Entry]:
    content = base("qcow2", "64M", write="0 64k")
    table: dict[str, tuple[str, list[Patch]]] = {
        "backing-far": (EXTERNAL, [(8, ">QI", (_FAR, 16))]),
        "version-4": (UNKNOWN, [(4, ">I", 4)]),
        "version-0": (UNKNOWN, [(4, ">I", 0)]),
        "encrypted-aes": ("encrypted-payload", [(32, ">I", 1)]),
        "encrypted-method-2": ("encrypted-payload", [(32, ">I", 2)]),
        "encrypted-extension": ("encrypted-payload", [(_EXTENSIONS, ">II", (0x0537BE77, 16))]),
        "snapshots-claimed": ("internal-snapshots", [(60, ">I", 1)]),
        "size-0": ("virtual-size", [(24, ">Q", 0)]),
        "size-60-tib": ("virtual-size", [(24, ">Q", 60 << 40)]),
        "size-2-63": ("virtual-size", [(24, ">Q", 1 << 63)]),
        "size-odd": (INVALID, [(24, ">Q", (64 << 20) - 1)]),
        "l1-small": (INVALID, [(24, ">Q", 8 << 40)]),
        "l1-huge": (INVALID, [(36, ">I", 0xFFFFFFFF)]),
        "l1-far": (INVALID, [(40, ">Q", _FAR)]),
        "l1-on-header": (INVALID, [(40, ">Q", 0)]),
        "l1-unaligned": (INVALID, [(40, ">Q", field(content, 40, ">Q") + 8)]),
        "l1-wraps": (INVALID, [(40, ">Q", (1 << 64) - (1 << 16))]),
        "refcounts-far": (INVALID, [(48, ">Q", _FAR)]),
        "refcounts-none": (INVALID, [(56, ">I", 0)]),
        "refcounts-huge": (INVALID, [(56, ">I", 0xFFFFFFFF)]),
        "refcounts-on-header": (INVALID, [(48, ">Q", 0)]),
        "refcounts-on-l1": (INVALID, [(48, ">Q", field(content, 40, ">Q"))]),
        "refcount-block-far": (INVALID, [(field(content, 48, ">Q"), ">Q", _FAR)]),
        "refcount-order-7": (INVALID, [(96, ">I", 7)]),
        "header-length-8": (INVALID, [(100, ">I", 8)]),
        "header-length-huge": (INVALID, [(100, ">I", 0xFFFFFFF8)]),
        "extension-huge": (INVALID, [(_EXTENSIONS, ">II", (0x12345678, 0xFFFFFFFF))]),
        "dirty": ("not-clean", [(_FEATURES, ">Q", 1)]),
        "corrupt": ("not-clean", [(_FEATURES, ">Q", 2)]),
        "unknown-bit-5": (UNKNOWN, [(_FEATURES, ">Q", 1 << 5)]),
        "unknown-bit-63": (UNKNOWN, [(_FEATURES, ">Q", 1 << 63)]),
        "compression-unknown": (UNKNOWN, [(_FEATURES, ">Q", 8), (_COMPRESSION, ">B", 7)]),
        "zstd-without-its-bit": (INVALID, [(_COMPRESSION, ">B", 1)]),
    }
    table |= {f"cluster-bits-{bits}": (INVALID, [(20, ">I", bits)]) for bits in (0, 8, 22, 31, 0xFFFFFFFF)}
    yield from named("qcow2", "qcow2", content, table)
    endless = replaced(content, _EXTENSIONS, struct.pack(">II", 0x12345678, 0) * ((0x10000 - _EXTENSIONS) // 8))
    yield "qcow2-extensions-endless", "qcow2", INVALID, endless
    small = base("qcow2", "64M", "cluster_size=4k", write="0 64k")
    yield "qcow2-extended-l2-small-clusters", "qcow2", INVALID, patched(small, (_FEATURES, ">Q", 16))
    yield "qcow2-header-only", "qcow2", INVALID, content[:64]
    yield "qcow2-cut-short", "qcow2", INVALID, content[: len(content) // 2]


def _qcow2_tables() -> Iterator[Entry]:
    content = base("qcow2", "1G", write="0 64k")
    l1 = field(content, 40, ">Q")
    l2 = field(content, l1, ">Q") & 0x00FFFFFFFFFFFE00
    end, used = len(content), 1 << 63
    table: dict[str, tuple[str, list[Patch]]] = {
        "l2-far": (INVALID, [(l1, ">Q", used | _FAR)]),
        "l2-at-end": (INVALID, [(l1, ">Q", used | end)]),
        "l2-unaligned": (INVALID, [(l1, ">Q", used | (l2 + 512))]),
        "l2-is-l1": (INVALID, [(l1, ">Q", used | l1)]),
        "l2-is-refcounts": (INVALID, [(l1, ">Q", used | field(content, 48, ">Q"))]),
        "l2-twice": (INVALID, [(l1 + 8, ">Q", used | l2)]),
        "cluster-far": (INVALID, [(l2, ">Q", used | _FAR)]),
        "cluster-at-end": (INVALID, [(l2, ">Q", used | end)]),
        "cluster-unaligned": (INVALID, [(l2, ">Q", used | (l2 + 512))]),
        "cluster-is-l2": (INVALID, [(l2, ">Q", used | l2)]),
        "compressed-far": (INVALID, [(l2, ">Q", 1 << 62 | _FAR)]),
        "compressed-over-end": (INVALID, [(l2, ">Q", 1 << 62 | 7 << 54 | (end - 1024))]),
    }
    yield from named("qcow2", "qcow2", content, table)
    for name, kind in (("zlib", []), ("zstd", ["compression_type=zstd"])):
        yield f"qcow2-bomb-{name}", "qcow2", "expansion-bomb", _bomb(*kind)


def _bomb(*options: str) -> bytes:
    """All clusters of 4 GiB are one and the same compressed one, which is valid."""
    size, cluster = 4 << 30, 2 << 20
    with tempfile.TemporaryDirectory() as folder:
        raw, path = Path(folder, "raw"), Path(folder, "qcow2")
        raw.write_bytes(b"bomb" * (cluster // 4))
        command = ["qemu-img", "convert", "-c", "-O", "qcow2", "-o", ",".join(["cluster_size=2M", *options])]
        subprocess.run([*command, str(raw), str(path)], check=True)
        content = path.read_bytes()
    l1 = field(content, 40, ">Q")
    l2 = field(content, l1, ">Q") & 0x00FFFFFFFFFFFE00
    one = field(content, l2, ">Q")
    assert one >> 62 & 1
    count = size // cluster
    # A few MB of tables are left; without them a thousandth is less.
    return patched(content, (24, ">Q", size << 4), (l2, f">{count * 16}Q", (one,) * count * 16))


def _qcow2_real() -> Iterator[Entry]:
    """Made by qemu-img itself, whole and valid."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "disk")
        path.write_bytes(base("qcow2", "64M", write="0 64k"))
        subprocess.run(["qemu-img", "snapshot", "-c", "one", str(path)], check=True)
        yield "qcow2-snapshot", "qcow2", "internal-snapshots", path.read_bytes()
        secret = ["--object", "secret,id=s,data=abc", "-o"]
        for name, driver, options in (
            ("qcow2-aes", "qcow2", "encrypt.format=aes,encrypt.key-secret=s"),
            ("qcow-aes", "qcow", "encrypt.format=aes,encrypt.key-secret=s"),
        ):
            path.unlink(missing_ok=True)
            command = ["qemu-img", "create", "-q", "-f", driver, *secret, options, str(path), "8M"]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
            yield name, name.partition("-")[0], "encrypted-payload", path.read_bytes()


def _qcow(canary: Path) -> Iterator[Entry]:
    content = base("qcow", "64M", write="0 64k")
    l1 = field(content, 40, ">Q")
    l2 = field(content, l1, ">Q")
    table: dict[str, tuple[str, list[Patch]]] = {
        "encrypted": ("encrypted-payload", [(36, ">I", 1)]),
        "cluster-bits-8": (INVALID, [(32, ">B", 8)]),
        "cluster-bits-17": (INVALID, [(32, ">B", 17)]),
        "l2-bits-5": (INVALID, [(33, ">B", 5)]),
        "l2-bits-14": (INVALID, [(33, ">B", 14)]),
        "size-0": ("virtual-size", [(24, ">Q", 0)]),
        "size-2-63": ("virtual-size", [(24, ">Q", 1 << 63)]),
        "size-odd": (INVALID, [(24, ">Q", (64 << 20) - 1)]),
        "l1-far": (INVALID, [(40, ">Q", _FAR)]),
        "l1-on-header": (INVALID, [(40, ">Q", 0)]),
        "l2-far": (INVALID, [(l1, ">Q", _FAR)]),
        "l2-negative": (INVALID, [(l1, ">Q", 1 << 63 | l2)]),
        "l2-is-l1": (INVALID, [(l1, ">Q", l1)]),
        "l2-twice": (INVALID, [(l1 + 8, ">Q", l2)]),
        "cluster-far": (INVALID, [(l2, ">Q", _FAR)]),
        "cluster-is-l2": (INVALID, [(l2, ">Q", l2)]),
        "compressed-over-end": (INVALID, [(l2, ">Q", 1 << 63 | 4000 << 51 | (len(content) - 8))]),
    }
    yield from named("qcow", "qcow", content, table)
    name = str(canary).encode()
    backing = patched(replaced(content, 48, name), (8, ">QI", (48, len(name))))
    yield "qcow-backing", "qcow", EXTERNAL, backing


def _qed(canary: Path) -> Iterator[Entry]:
    content = base("qed", "4G", write="0 64k")
    l1 = field(content, 40, "<Q")
    l2 = field(content, l1, "<Q")
    table: dict[str, tuple[str, list[Patch]]] = {
        "need-check": ("not-clean", [(16, "<Q", 2)]),
        "unknown-bit": (UNKNOWN, [(16, "<Q", 1 << 7)]),
        "cluster-size-0": (INVALID, [(4, "<I", 0)]),
        "cluster-size-odd": (INVALID, [(4, "<I", 65537)]),
        "table-size-3": (INVALID, [(8, "<I", 3)]),
        "header-size-0": (INVALID, [(12, "<I", 0)]),
        "header-size-huge": (INVALID, [(12, "<I", 0xFFFFFFFF)]),
        "size-0": ("virtual-size", [(48, "<Q", 0)]),
        "size-2-63": ("virtual-size", [(48, "<Q", 1 << 63)]),
        "l1-far": (INVALID, [(40, "<Q", _FAR)]),
        "l1-on-header": (INVALID, [(40, "<Q", 0)]),
        "l2-far": (INVALID, [(l1, "<Q", _FAR)]),
        "l2-wraps": (INVALID, [(l1, "<Q", (1 << 64) - (1 << 16))]),
        "l2-is-l1": (INVALID, [(l1, "<Q", l1)]),
        "l2-twice": (INVALID, [(l1 + 8, "<Q", l2)]),
        "cluster-far": (INVALID, [(l2, "<Q", _FAR)]),
        "cluster-unaligned": (INVALID, [(l2, "<Q", l2 + 512)]),
        "cluster-is-l2": (INVALID, [(l2, "<Q", l2)]),
    }
    yield from named("qed", "qed", content, table)
    name = str(canary).encode()
    backing = patched(replaced(base("qed", "64M"), 0x200, name), (16, "<Q", 5), (56, "<II", (0x200, len(name))))
    yield "qed-backing", "qed", EXTERNAL, backing
    yield "qed-backing-unflagged", "qed", EXTERNAL, patched(backing, (16, "<Q", 0))
