"""Hostile VMDK files."""

from collections.abc import Iterator
from pathlib import Path

from tests.hostile import Entry, Patch, base, field, named, patched, replaced

EXTERNAL, INVALID, UNKNOWN = "external-reference", "header-invalid", "feature-unknown"
_TEXT_AT, _TEXT_SIZE = 512, 20 * 512
_FAR = 0x7FFFFFFF
_TYPES = ("monolithicFlat", "vmfs", "vmfsSparse", "twoGbMaxExtentFlat", "twoGbMaxExtentSparse", "fullDevice", "custom")


def entries(canary: Path) -> Iterator[Entry]:
    yield from _descriptors(canary)
    yield from _texts(canary)
    yield from _sparse()
    yield from _streamed()


def flat(canary: Path, kind: str = "monolithicFlat", first: str = "# Disk DescriptorFile") -> bytes:
    """A descriptor whose one extent is the canary."""
    lines = [first, "version=1", "CID=12345678", "parentCID=ffffffff", f'createType="{kind}"']
    return "\n".join([*lines, f'RW 2048 FLAT "{canary}" 0', ""]).encode()


def _descriptors(canary: Path) -> Iterator[Entry]:
    for kind in _TYPES:
        yield f"vmdk-descriptor-{kind}", "vmdk", EXTERNAL, flat(canary, kind)
    yield "vmdk-descriptor-as-raw", "raw", EXTERNAL, flat(canary)
    yield "vmdk-descriptor-undeclared", "", EXTERNAL, flat(canary)
    yield "vmdk-descriptor-without-magic", "raw", EXTERNAL, flat(canary, first="# a comment")
    yield "vmdk-descriptor-odd-case", "raw", EXTERNAL, flat(canary, first="# a comment").replace(b"createT", b"CREATEt")


def text_of(content: bytes) -> str:
    return content[_TEXT_AT : _TEXT_AT + _TEXT_SIZE].rstrip(b"\0").decode()


def with_text(content: bytes, text: str) -> bytes:
    return replaced(content, _TEXT_AT, text.encode().ljust(_TEXT_SIZE, b"\0"))


def _texts(canary: Path) -> Iterator[Entry]:
    """Sparse files with a good header and a bad descriptor."""
    content = base("vmdk", "64M", write="0 64k")
    text = text_of(content)
    extent = next(line for line in text.splitlines() if line.startswith("RW "))
    hint = f'parentFileNameHint="{canary}"'
    no_parent = "parentCID=ffffffff"
    texts = {
        "hint": (EXTERNAL, text.replace(no_parent, f"{no_parent}\n{hint}")),
        "hint-in-comment": (EXTERNAL, text.replace(no_parent, f"{no_parent}\n# {hint}")),
        "hint-in-value": (EXTERNAL, text.replace(no_parent, f"{no_parent}\nddb.comment = {hint}")),
        "parent-cid": (EXTERNAL, text.replace(no_parent, "parentCID=12345678")),
        "parent-cid-twice": (INVALID, text.replace(no_parent, f"{no_parent}\nparentCID=12345678")),
        "no-type": (EXTERNAL, text.replace('createType="monolithicSparse"', "")),
        "flat-extent": (EXTERNAL, text.replace(extent, f'RW 131072 FLAT "{canary}" 0')),
        "extent-absolute": (EXTERNAL, text.replace(extent, f'RW 131072 SPARSE "{canary}"')),
        "extent-relative": (EXTERNAL, text.replace(extent, f'RW 131072 SPARSE "../..{canary}"')),
        "extent-backslash": (EXTERNAL, text.replace(extent, 'RW 131072 SPARSE "..\\\\canary"')),
        "extent-unicode": (EXTERNAL, text.replace(extent, 'RW 131072 SPARSE "..\u2215canary" \u2028 /x')),
        "extents-two": (EXTERNAL, text.replace(extent, f"{extent}\n{extent}")),
        "extents-none": (EXTERNAL, text.replace(extent, "")),
        "line-unknown": (EXTERNAL, text + "\nOPEN THE DOOR\n"),
        "zero-byte": (INVALID, text.replace("# Extent", "\0# Extent")),
        "zero-byte-and-hint": (EXTERNAL, text.replace("# Extent", f"\0{hint}\n# Extent")),
        "empty": (EXTERNAL, ""),
    }
    texts |= {
        f"type-{kind}": (EXTERNAL, text.replace("monolithicSparse", kind)) for kind in (*_TYPES, "streamOptimizedX")
    }
    for name, (code, changed) in texts.items():
        assert changed != text, name
        yield f"vmdk-{name}", "vmdk", code, with_text(content, changed)
    # The header points to a good descriptor at the end; QEMU looks for a parent in the first one all the same.
    elsewhere = with_text(content, texts["hint"][1]) + text.encode().ljust(_TEXT_SIZE, b"\0")
    yield "vmdk-descriptor-elsewhere", "vmdk", INVALID, patched(elsewhere, (28, "<QQ", (len(content) // 512, 20)))
    # QEMU opens a sparse file of no capacity as a descriptor file.
    no_capacity = patched(with_text(content, flat(canary).decode()), (12, "<Q", 0))
    yield "vmdk-capacity-0-flat", "vmdk", EXTERNAL, no_capacity
    yield "vmdk-capacity-0", "vmdk", "virtual-size", patched(content, (12, "<Q", 0))


def _sparse() -> Iterator[Entry]:
    content = base("vmdk", "64M", write="0 64k")
    second, first = field(content, 48, "<Q"), field(content, 56, "<Q")
    table_at = field(content, first * 512, "<I")
    table: dict[str, tuple[str, list[Patch]]] = {
        "version-4": (UNKNOWN, [(4, "<I", 4)]),
        "compression-2": (UNKNOWN, [(77, "<H", 2)]),
        "compression-without-flag": (INVALID, [(77, "<H", 1)]),
        "line-ends-converted": (INVALID, [(73, "4s", (b"\n \n\n",))]),  # type: ignore[dict-item]
        "in-use": ("not-clean", [(72, "<B", 1)]),
        "size-2-63": ("virtual-size", [(12, "<Q", 1 << 54)]),
        "metadata-far": (INVALID, [(64, "<Q", _FAR)]),
        "grain-0": (INVALID, [(20, "<Q", 0)]),
        "grain-odd": (INVALID, [(20, "<Q", 127)]),
        "grain-huge": (INVALID, [(20, "<Q", 1 << 40)]),
        "entries-0": (INVALID, [(44, "<I", 0)]),
        "entries-huge": (INVALID, [(44, "<I", 0xFFFFFFFF)]),
        "descriptor-none": (INVALID, [(36, "<Q", 0)]),
        "descriptor-over-1-mib": (INVALID, [(36, "<Q", 2049)]),
        "directory-far": (INVALID, [(56, "<Q", _FAR)]),
        "directory-wraps": (INVALID, [(56, "<Q", 1 << 56)]),
        "second-directory-far": (INVALID, [(48, "<Q", _FAR)]),
        "table-far": (INVALID, [(first * 512, "<I", _FAR)]),
        "table-on-header": (INVALID, [(first * 512, "<I", 1)]),
        "table-is-directory": (INVALID, [(first * 512, "<I", first)]),
        "table-twice": (INVALID, [(first * 512 + 4, "<I", table_at)]),
        "second-table-far": (INVALID, [(second * 512, "<I", _FAR)]),
        "grain-far": (INVALID, [(table_at * 512, "<I", _FAR)]),
        "grain-at-end": (INVALID, [(table_at * 512, "<I", len(content) // 512)]),
        "grain-is-table": (INVALID, [(table_at * 512, "<I", table_at)]),
    }
    yield from named("vmdk", "vmdk", content, table)
    yield "vmdk-header-only", "vmdk", INVALID, content[:512]
    yield "vmdk-cut-short", "vmdk", INVALID, content[:-512]
    yield "vmdk-esx-sparse", "vmdk", UNKNOWN, b"COWD".ljust(1 << 20, b"\0")
    yield "vmdk-se-sparse", "vmdk", UNKNOWN, b"\xbe\xba\xfe\xca".ljust(1 << 20, b"\0")


def good_stream() -> bytes:
    """A valid stream; qemu-img writes the grain directory in front, here the final header is moved into a footer."""
    content = base("vmdk", "64M", "subformat=streamOptimized", write="0 64k")
    assert field(content, 56, "<Q") != (1 << 64) - 1
    marker = b"\0" * 12 + b"\3" + b"\0" * 499
    return patched(content, (56, "<Q", (1 << 64) - 1)) + marker + content[:512] + b"\0" * 512


def _streamed() -> Iterator[Entry]:
    content = base("vmdk", "64M", "subformat=streamOptimized", write="0 64k")
    stream = good_stream()
    last = len(content)
    table: dict[str, tuple[str, list[Patch]]] = {
        "footer-in-footer": (INVALID, [(last + 512 + 56, "<Q", (1 << 64) - 1)]),
        "footer-differs": (INVALID, [(last + 512 + 12, "<Q", 1)]),
        "footer-elsewhere": (INVALID, [(last + 512 + 28, "<Q", 5)]),
        "footer-no-magic": (INVALID, [(last + 512, "<I", 0)]),
        "footer-marker": (INVALID, [(last + 12, "<I", 2)]),
        "end-marker": (INVALID, [(last + 1024 + 12, "<I", 3)]),
        "end-padding": (INVALID, [(last + 1024 + 500, "<I", 3)]),
        "directory-in-footer-far": (INVALID, [(last + 512 + 56, "<Q", _FAR)]),
    }
    yield from named("vmdk-stream", "vmdk", stream, table)
    yield "vmdk-stream-cut-short", "vmdk", INVALID, stream[:-512]
    first = field(content, 56, "<Q")
    grain = field(content, field(content, first * 512, "<I") * 512, "<I")
    yield "vmdk-stream-bomb", "vmdk", "expansion-bomb", _bomb(content, grain)


def _bomb(content: bytes, grain: int) -> bytes:
    """Grains of 32 MiB instead of 64 KiB, 512 to a table, each the same compressed bytes."""
    first, second = field(content, 56, "<Q"), field(content, 48, "<Q")
    table = field(content, first * 512, "<I")
    size = 16 << 30
    return patched(
        content,
        (12, "<QQ", (size // 512, 1 << 16)),
        (first * 512, "<2I", (table, 0)),
        (second * 512, "<2I", (0, 0)),
        (table * 512, "<512I", (grain,) * 512),
    )
