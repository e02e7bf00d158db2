"""Which formats a file shows: every magic number is looked for, so that a file with two is noticed."""

import importlib

from darkroom.errors import RefusedError
from darkroom.formats import (
    EncryptedPayloadError,
    FeatureUnknownError,
    Inspector,
    ZvhdError,
)
from darkroom.model import Reader

_ISO_AT = 0x8001
_ISO_VOLUMES = (b"CD001", b"BEA01", b"NSR02", b"NSR03")
_VHD_FOOTER = 512
_VDI_AT = 0x40
_VDI_MAGIC = b"\x7f\x10\xda\xbe"
_STARTS = {
    b"vhdxfile": "vhdx",
    b"KDMV": "vmdk",
    b"COWD": "vmdk-esx-sparse",
    b"# Disk Descriptor": "vmdk-descriptor",
    b"QED\0": "qed",
    b"LUKS\xba\xbe": "luks",
    b"zvhd": "zvhd",
    b"ZVHD": "zvhd",
    b"WithoutFreeSpace": "parallels",
    b"WithouFreSpacExt": "parallels",
    b"\x78\xad\x6d\x0e": "bochs",
    b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop": "cloop",
}
REFUSED: dict[str, type[RefusedError]] = {
    "luks": EncryptedPayloadError,
    "zvhd": ZvhdError,
    "parallels": FeatureUnknownError,
    "bochs": FeatureUnknownError,
    "cloop": FeatureUnknownError,
    "vmdk-esx-sparse": FeatureUnknownError,
}


def formats(reader: Reader) -> list[str]:
    """The names of all formats that the file shows, sorted; none for raw."""
    head = reader.read(0, min(512, reader.size))
    found = {name for magic, name in _STARTS.items() if head.startswith(magic)}
    if head.startswith(b"QFI\xfb"):
        found.add("qcow" if head[4:8] == b"\0\0\0\1" else "qcow2")
    if head[_VDI_AT : _VDI_AT + 4] == _VDI_MAGIC:
        found.add("vdi")
    if _is_vhd(reader):
        found.add("vhd")
    if _is_iso(reader):
        found.add("iso")
    return sorted(found)


def inspector(kind: str) -> Inspector:
    """The function that inspects a format."""
    module = importlib.import_module(f"darkroom.formats.{'vmdk' if kind == 'vmdk-descriptor' else kind}")
    inspect: Inspector = module.inspect
    return inspect


def _is_vhd(reader: Reader) -> bool:
    """A footer at the end, or its copy at the start of a dynamic file."""
    if reader.size < _VHD_FOOTER:
        return False
    ends = (reader.read(0, 8), reader.read(reader.size - _VHD_FOOTER, 8))
    # Some writers leave out the last byte of the footer.
    short = reader.read(reader.size - _VHD_FOOTER + 1, 8) if reader.size % 512 == 511 else b""
    return b"conectix" in (*ends, short)


def _is_iso(reader: Reader) -> bool:
    """An ISO 9660 or UDF volume descriptor; a hybrid that is bootable as a disk is an ISO all the same."""
    return any(reader.size >= at + 5 and reader.read(at, 5) in _ISO_VOLUMES for at in (_ISO_AT, _ISO_AT + 2048))
