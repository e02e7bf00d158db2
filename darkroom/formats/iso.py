"""iso: an installation medium (ECMA-119, §8; "El Torito" Bootable CD-ROM Format Specification 1.0, §2).

The medium is the file as it is; what is looked at is whether all of it is there, and how a machine starts from it.
"""

import struct
from collections.abc import Iterator

from darkroom.formats import Inspection, MediumError
from darkroom.formats.fields import File

_BLOCK = 2048
_VOLUMES = 16
"""The block of the first volume descriptor."""
_MOST_VOLUMES = 64
_BOOT, _PRIMARY, _END = 0, 1, 255
_STANDARD = b"CD001"
_EL_TORITO = b"EL TORITO SPECIFICATION"
_CATALOG = struct.Struct("<64xI")
"""Of a boot record, behind its first 7 bytes: two names, and the block of the boot catalog."""
_ENTRY = struct.Struct("<BBHBBHI20x")
_WORDS = struct.Struct("<16H")
_VALIDATION, _SECTION, _LAST_SECTION, _BOOTABLE = 1, 0x90, 0x91, 0x88
_PLATFORMS = {0: "bios", 0xEF: "uefi"}


def inspect(file: File) -> Inspection:
    """Refuse a medium that was cut off, that no machine starts from, or whose boot record points outside of it."""
    file.require_disk(file.size)
    catalog = size = 0
    for kind, descriptor in _descriptors(file):
        if kind == _PRIMARY:
            (blocks,) = struct.unpack_from("<I", descriptor, 80)
            (block,) = struct.unpack_from("<H", descriptor, 128)
            file.require(block == _BLOCK, f"blocks of {_BLOCK} bytes", block)
            size = blocks * block
        elif kind == _BOOT and descriptor[7:].startswith(_EL_TORITO):
            catalog = _CATALOG.unpack_from(descriptor, 7)[0]
    file.require(size <= file.size, f"a medium of {size} bytes", f"{file.size}: it was cut off")
    modes = _modes(file, catalog) if catalog else []
    if not modes:
        raise MediumError(file.which, "a boot record for BIOS or UEFI", "none")
    return Inspection("iso", file.size, " and ".join(modes))


def _descriptors(file: File) -> Iterator[tuple[int, bytes]]:
    """The kind and the bytes of each volume descriptor of the standard."""
    for number in range(_VOLUMES, _VOLUMES + _MOST_VOLUMES):
        descriptor = file.read(number * _BLOCK, _BLOCK, "a volume descriptor")
        if descriptor[1:6] != _STANDARD or descriptor[0] == _END:
            return
        yield descriptor[0], descriptor


def _modes(file: File, catalog: int) -> list[str]:
    """How machines start from the medium: `bios`, `uefi` or both, by the entries of its boot catalog."""
    entries = file.read(catalog * _BLOCK, _BLOCK, "the boot catalog")
    sound = (
        entries[0] == _VALIDATION and entries[30:32] == b"\x55\xaa" and not sum(_WORDS.unpack_from(entries)) & 0xFFFF
    )
    file.require(sound, "a boot catalog", "none")
    found, platform = set(), entries[1]
    for at in range(_ENTRY.size, _BLOCK, _ENTRY.size):
        kind, second, _, _, _, _, start = _ENTRY.unpack_from(entries, at)
        if kind in (_SECTION, _LAST_SECTION):
            platform = second
        elif kind == _BOOTABLE:
            file.require(0 < start * _BLOCK < file.size, f"what boots within {file.size} bytes", f"block {start}")
            found.add(_PLATFORMS.get(platform, ""))
    return sorted(found - {""})
