"""Hostile VHD, VHDX, VDI and ISO files, files of two formats, and files that are not what they are declared to be."""

import struct
from collections.abc import Iterator
from pathlib import Path

from darkroom.formats.crc32c import crc32c
from tests.hostile import Entry, Patch, base, field, named, patched, replaced

EXTERNAL, INVALID, UNKNOWN = "external-reference", "header-invalid", "feature-unknown"
MISMATCH, POLYGLOT, ISO, HEADER = "format-mismatch", "polyglot", "iso", "header-invalid"
KiB, MiB = 1024, 1 << 20
_FAR = 0x7FFFFFFF


def entries(canary: Path) -> Iterator[Entry]:
    yield from _vhd(canary)
    yield from _vhdx()
    yield from _vdi()
    yield from _iso()
    yield from _polyglots()
    yield from _masks(canary)


def vhd_sealed(content: bytes, *, dynamic: bool) -> bytes:
    """With right checksums, and the footer's copy at the start as the footer."""
    places = [(len(content) - 512, 512, 64), (512, 1024, 36)] if dynamic else [(len(content) - 512, 512, 64)]
    for at, length, place in places:
        content = patched(content, (at + place, ">I", 0))
        content = patched(content, (at + place, ">I", ~sum(content[at : at + length]) & 0xFFFFFFFF))
    return content[-512:] + content[512:] if dynamic else content


def _vhd(canary: Path) -> Iterator[Entry]:
    content = base("vpc", "64M", "force_size=on", write="0 64k")
    fixed = base("vpc", "4M", "force_size=on", "subformat=fixed")
    foot, table_at = len(content) - 512, field(content, 512 + 16, ">Q")
    block = field(content, table_at, ">I")
    table: dict[str, tuple[str, list[Patch]]] = {
        "differencing": (EXTERNAL, [(foot + 60, ">I", 4)]),
        "parent-id": (EXTERNAL, [(512 + 40, ">Q", 1)]),
        "parent-locator": (EXTERNAL, [(512 + 576, "4s", (b"W2ku",))]),  # type: ignore[dict-item]
        "type-5": (UNKNOWN, [(foot + 60, ">I", 5)]),
        "version-2": (UNKNOWN, [(foot + 12, ">I", 2 << 16)]),
        "size-0": ("virtual-size", [(foot + 48, ">Q", 0)]),
        "size-2-63": ("virtual-size", [(foot + 48, ">Q", 1 << 63)]),
        "size-3-tib": (INVALID, [(foot + 48, ">Q", 3 << 40)]),
        "size-odd": (INVALID, [(foot + 48, ">Q", 64 * MiB - 1)]),
        "header-far": (INVALID, [(foot + 16, ">Q", 1 << 40)]),
        "table-far": (INVALID, [(512 + 16, ">Q", 1 << 40)]),
        "table-on-footer": (INVALID, [(512 + 16, ">Q", 0)]),
        "table-small": (INVALID, [(512 + 28, ">I", 3)]),
        "table-huge": (INVALID, [(512 + 28, ">I", 0xFFFFFFFF)]),
        "block-size-0": (INVALID, [(512 + 32, ">I", 0)]),
        "block-size-odd": (INVALID, [(512 + 32, ">I", 2 * MiB + 512)]),
        "block-far": (INVALID, [(table_at, ">I", _FAR)]),
        "block-over-end": (INVALID, [(table_at, ">I", block + 8)]),
        "block-on-table": (INVALID, [(table_at, ">I", table_at // 512)]),
        "block-twice": (INVALID, [(table_at + 4, ">I", block)]),
    }
    for name, declared, code, changed in named("vhd", "vhd", content, table):
        yield name, declared, code, vhd_sealed(changed, dynamic=True)
    parent = str(canary).encode("utf-16-be")
    yield "vhd-parent-name", "vhd", EXTERNAL, vhd_sealed(replaced(content, 512 + 64, parent), dynamic=True)
    checksums: dict[str, tuple[str, list[Patch]]] = {
        "footer-checksum": (INVALID, [(64, ">I", 1), (foot + 64, ">I", 1)]),
        "header-checksum": (INVALID, [(512 + 36, ">I", 1)]),
        "footers-differ": (INVALID, [(foot + 24, ">I", 1)]),
    }
    yield from named("vhd", "vhd", content, checksums)
    yield "vhd-footer-only", "vhd", INVALID, content[-512:]
    yield "vhd-footer-only-fixed", "vhd", INVALID, fixed[-512:]
    yield "vhd-cut-short", "vhd", INVALID, content[: -2 * MiB]
    yield "vhd-dynamic-without-its-copy", "vhd", INVALID, bytes(512) + content[512:]
    yield "vhd-fixed-cut-short", "vhd", INVALID, fixed[: 2 * MiB] + fixed[-512:]
    yield "vhd-fixed-too-long", "vhd", INVALID, bytes(512) + fixed
    # QEMU takes the footer at the start, where another reader takes the one at the end.
    yield "vhd-dynamic-inside-fixed", "vhd", INVALID, content[:1536] + fixed[1536:]


def vhdx_sealed(content: bytes) -> bytes:
    for at, length in ((64 * KiB, 4 * KiB), (128 * KiB, 4 * KiB), (192 * KiB, 64 * KiB), (256 * KiB, 64 * KiB)):
        content = patched(content, (at + 4, "<I", 0))
        content = patched(content, (at + 4, "<I", crc32c(content[at : at + length])))
    return content


def vhdx_places(content: bytes) -> tuple[int, int]:
    """Where the block table and the metadata lie."""
    regions = dict(struct.unpack_from("<16sQ", content, 192 * KiB + 16 + 32 * number) for number in range(2))
    bat = next(at for kind, at in regions.items() if kind[:4] == struct.pack("<I", 0x2DC27766))
    return bat, next(at for at in regions.values() if at != bat)


def _vhdx() -> Iterator[Entry]:
    content = base("vhdx", "8M", "block_size=1M", write="0 64k")
    bat, meta = vhdx_places(content)
    items = {content[at : at + 4]: at for at in range(meta + 32, meta + 32 * 6, 32)}
    parameters = items[struct.pack("<I", 0xCAA16737)]
    size = items[struct.pack("<I", 0x2FA54224)]
    sector = items[struct.pack("<I", 0x8141BF1D)]
    at = {name: meta + field(content, place + 16, "<I") for name, place in (("p", parameters), ("s", size))}
    both = (64 * KiB, 128 * KiB)
    tables = (192 * KiB, 256 * KiB)
    first = 0 if field(content, 192 * KiB + 16, "<I") == 0x2DC27766 else 1
    region = 16 + 32 * first + 16
    log = field(content, 64 * KiB + 72, "<Q")
    table: dict[str, tuple[str, list[Patch]]] = {
        "log": ("not-clean", [(place + 48, "<Q", 1) for place in both]),
        "log-version": (UNKNOWN, [(place + 64, "<H", 1) for place in both]),
        "log-far": (INVALID, [(place + 72, "<Q", 1 << 40) for place in both]),
        "log-on-headers": (INVALID, [(place + 72, "<Q", 0) for place in both]),
        "version-2": (UNKNOWN, [(place + 66, "<H", 2) for place in both]),
        "headers-differ": (INVALID, [(64 * KiB + 8, "<Q", 9), (128 * KiB + 8, "<Q", 9), (64 * KiB + 16, "<Q", 1)]),
        "parent": (EXTERNAL, [(at["p"] + 4, "<I", 2)]),
        "parent-locator": (
            EXTERNAL,
            [(sector, "<IHH", (0xA8D35F2D, 0xB30B, 0x454D)), (sector + 8, ">Q", 0xABF7D3D84834AB0C)],
        ),
        "metadata-required": (UNKNOWN, [(sector, "<I", 1)]),
        "metadata-twice": (INVALID, [(sector, "<QQ", struct.unpack_from("<QQ", content, size))]),
        "metadata-far": (INVALID, [(size + 16, "<I", 0xFFFFFFF0)]),
        "metadata-long": (INVALID, [(size + 20, "<I", MiB)]),
        "metadata-count": (INVALID, [(meta + 10, "<H", 0xFFFF)]),
        "metadata-none": (INVALID, [(meta + 10, "<H", 0)]),
        "size-0": ("virtual-size", [(at["s"], "<Q", 0)]),
        "size-2-63": ("virtual-size", [(at["s"], "<Q", 1 << 63)]),
        "size-odd": (INVALID, [(at["s"], "<Q", 8 * MiB - 1)]),
        "block-size-0": (INVALID, [(at["p"], "<I", 0)]),
        "block-size-odd": (INVALID, [(at["p"], "<I", 3 * MiB)]),
        "region-far": (INVALID, [(place + region, "<Q", 1 << 40) for place in tables]),
        "region-wraps": (INVALID, [(place + region, "<Q", (1 << 64) - MiB) for place in tables]),
        "region-on-log": (INVALID, [(place + region, "<Q", log) for place in tables]),
        "region-unknown": (
            UNKNOWN,
            [(place + 8, "<I", 3) for place in tables] + [(place + 108, "<I", 1) for place in tables],
        ),
        "region-missing": (INVALID, [(place + 16, "<I", field(content, place + 48, "<I")) for place in tables]),
        "region-count": (INVALID, [(place + 8, "<I", 0xFFFFFFFF) for place in tables]),
        "table-small": (INVALID, [(at["s"], "<Q", 8 << 40)]),
        "block-far": (INVALID, [(bat, "<Q", 1 << 40 | 6)]),
        "block-at-end": (INVALID, [(bat, "<Q", len(content) | 6)]),
        "block-on-metadata": (INVALID, [(bat, "<Q", meta | 6)]),
        "block-twice": (INVALID, [(bat + 8, "<Q", field(content, bat, "<Q"))]),
        "block-partial": (INVALID, [(bat, "<Q", field(content, bat, "<Q") | 7)]),
    }
    for name, declared, code, changed in named("vhdx", "vhdx", content, table):
        yield name, declared, code, vhdx_sealed(changed)
    checksums: dict[str, tuple[str, list[Patch]]] = {
        "header-checksums": (INVALID, [(place + 4, "<I", 1) for place in both]),
        "region-checksums": (INVALID, [(place + 4, "<I", 1) for place in tables]),
    }
    yield from named("vhdx", "vhdx", content, checksums)
    yield "vhdx-magic-only", "vhdx", INVALID, content[:512]
    yield "vhdx-cut-short", "vhdx", INVALID, content[:-4096]


def _vdi() -> Iterator[Entry]:
    content = base("vdi", "64M", write="0 64k")
    map_at = field(content, 340, "<I")
    table: dict[str, tuple[str, list[Patch]]] = {
        "differencing": (EXTERNAL, [(76, "<I", 4)]),
        "undo": (EXTERNAL, [(76, "<I", 3)]),
        "parent": (EXTERNAL, [(440, "<Q", 1)]),
        "link": (EXTERNAL, [(424, "<Q", 1)]),
        "version-2": (UNKNOWN, [(68, "<I", 2 << 16)]),
        "block-extra": (UNKNOWN, [(380, "<I", 512)]),
        "size-0": ("virtual-size", [(368, "<Q", 0)]),
        "size-2-63": ("virtual-size", [(368, "<Q", 1 << 63)]),
        "sector-size": (INVALID, [(360, "<I", 4096)]),
        "block-size-0": (INVALID, [(376, "<I", 0)]),
        "blocks-few": (INVALID, [(384, "<I", 3)]),
        "blocks-many": (INVALID, [(384, "<I", 0xFFFFFFFF)]),
        "used-many": (INVALID, [(388, "<I", 65)]),
        "map-far": (INVALID, [(340, "<I", 0x7FFFFE00)]),
        "map-on-header": (INVALID, [(340, "<I", 0)]),
        "data-far": (INVALID, [(344, "<I", 0xFFFFFE00)]),
        "data-on-map": (INVALID, [(344, "<I", 0)]),
        "block-far": (INVALID, [(map_at, "<I", _FAR)]),
        "block-at-end": (INVALID, [(map_at, "<I", 1)]),
        "block-twice": (INVALID, [(map_at + 4, "<I", 0)]),
    }
    yield from named("vdi", "vdi", content, table)
    yield "vdi-magic-only", "vdi", INVALID, content[:128]
    yield "vdi-cut-short", "vdi", INVALID, content[:-512]


def iso() -> bytes:
    """An ISO 9660 volume whose El Torito boot record points outside of it."""
    primary, boot, end = (struct.pack("<B5sB", kind, b"CD001", 1).ljust(2048, b"\0") for kind in (1, 0, 255))
    boot = patched(replaced(boot, 7, b"EL TORITO SPECIFICATION"), (71, "<I", 0x7FFFFFFF))
    return bytes(0x8000) + primary + boot + end + bytes(64 * KiB)


def mbr() -> bytes:
    """A sector with one partition, which starts at 1 MiB."""
    sector = bytes(446) + struct.pack("<B3sB3sII", 0x80, b"\0\2\0", 0x83, b"\0\0\0", 2048, 2048) + bytes(48)
    return sector + b"\x55\xaa"


def _iso() -> Iterator[Entry]:
    content = iso()
    udf = replaced(bytes(128 * KiB), 0x8000, b"\0BEA01\1".ljust(2048, b"\0") + b"\0NSR02\1")
    yield "iso-boot-outside", "iso", HEADER, content
    yield "iso-undeclared", "", HEADER, content
    yield "iso-as-raw", "raw", MISMATCH, content
    yield "iso-hybrid", "raw", MISMATCH, replaced(content, 0, mbr())
    yield "iso-hybrid-boot-outside", "iso", HEADER, replaced(content, 0, mbr())
    yield "iso-udf", "raw", MISMATCH, udf
    yield "iso-udf-alone", "iso", ISO, udf
    yield "iso-and-zip", "iso", HEADER, content + b"PK\5\6" + bytes(18)
    yield "iso-declared-only", "iso", MISMATCH, bytes(64 * KiB)


def _polyglots() -> Iterator[Entry]:
    qcow2 = base("qcow2", "64M", "cluster_size=64k", write="0 64k")
    vmdk = base("vmdk", "64M", write="0 64k")
    vhd = base("vpc", "4M", "force_size=on", "subformat=fixed")
    vdi = base("vdi", "64M", write="0 64k")
    volume = iso()[0x8000:]
    for name, content in (("qcow2", qcow2), ("vmdk", vmdk), ("vdi", vdi)):
        for declared in (name, "raw", ""):
            changed = replaced(content, 0x8000, volume[:6144])
            yield f"{name}-and-iso-as-{declared or 'nothing'}", declared, POLYGLOT, changed
            yield f"{name}-and-vhd-as-{declared or 'nothing'}", declared, POLYGLOT, content + vhd[-512:]
    yield "qcow2-and-vdi", "qcow2", POLYGLOT, patched(qcow2, (64, "<I", 0xBEDA107F))
    yield "qcow2-inside-fixed-vhd", "vhd", POLYGLOT, replaced(vhd, 0, qcow2)
    vhdx = base("vhdx", "8M", "block_size=1M", write="0 64k")
    yield "vhdx-and-iso", "vhdx", POLYGLOT, replaced(vhdx, 0x8000, volume[:6144])
    yield "vhdx-and-partitions", "vhdx", POLYGLOT, replaced(vhdx, 446, mbr()[446:])


def _masks(canary: Path) -> Iterator[Entry]:
    """Files that are not what they are declared to be."""
    from tests.hostile_qcow import with_backing

    size, driver = "4M", {"vhd": "vpc"}
    contents = {
        name: base(driver.get(name, name), size) for name in ("qcow2", "qcow", "qed", "vmdk", "vhd", "vhdx", "vdi")
    }
    for name, content in contents.items():
        yield f"{name}-as-raw", "raw", MISMATCH, content
        yield f"{name}-as-another", "vdi" if name == "qcow2" else "qcow2", MISMATCH, content
        yield f"raw-as-{name}", name, MISMATCH, bytes(MiB)
    guest = with_backing(base("qcow2", "64M", write="0 64k"), str(canary))
    yield "qcow2-backing-as-raw", "raw", MISMATCH, guest
    yield "qcow2-backing-undeclared", "", EXTERNAL, guest
    yield "zvhd-declared", "zvhd", "zvhd", bytes(MiB)
    yield "zvhd2-declared", "zvhd2", "zvhd", bytes(MiB)
    yield "empty", "raw", "virtual-size", b""
    yield "parallels-as-raw", "raw", UNKNOWN, base("parallels", size)
    for version in (1, 2):
        yield (
            f"luks{version}-as-raw",
            "raw",
            "encrypted-payload",
            struct.pack(">6sH", b"LUKS\xba\xbe", version).ljust(MiB, b"\0"),
        )
    yield "bochs-as-raw", "raw", UNKNOWN, b"Bochs Virtual HD Image".ljust(MiB, b"\0")
    yield "cloop-as-raw", "raw", UNKNOWN, b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop".ljust(MiB, b"\0")
    yield "dmg-as-raw", "raw", UNKNOWN, bytes(MiB) + b"koly".ljust(512, b"\0")
