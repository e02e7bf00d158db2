"""Which formats a file shows: every magic number is looked for, so that a file with two is noticed."""

import importlib
import re
from collections.abc import Callable

from darkroom.errors import RefusedError
from darkroom.formats import (
    EncryptedPayloadError,
    ExternalReferenceError,
    FeatureUnknownError,
    Inspection,
)
from darkroom.formats.fields import SECTOR, File

_ISO_AT = 0x8001
_ISO_SECTOR = 2048
_ISO_VOLUMES = (b"CD001", b"BEA01", b"NSR02", b"NSR03")
_VDI_AT = 0x40
_VDI_MAGIC = b"\x7f\x10\xda\xbe"
_VHD_MAGIC = b"conectix"
_DMG_MAGIC = b"koly"
_HEAD = 4096
_DESCRIPTOR = re.compile(rb"(?im)\A# *disk descriptorfile|^[ \t]*createtype[ \t]*=")
_STARTS = {
    b"vhdxfile": "vhdx",
    b"KDMV": "vmdk",
    b"COWD": "vmdk-esx-sparse",
    b"\xbe\xba\xfe\xca\0\0\0\0": "vmdk-se-sparse",
    b"QED\0": "qed",
    b"LUKS\xba\xbe": "luks",
    b"WithoutFreeSpace": "parallels",
    b"WithouFreSpacExt": "parallels",
    b"Bochs Virtual HD Image": "bochs",
    b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop": "cloop",
}
REFUSED: dict[str, type[RefusedError]] = {
    "luks": EncryptedPayloadError,
    "parallels": FeatureUnknownError,
    "bochs": FeatureUnknownError,
    "cloop": FeatureUnknownError,
    "dmg": FeatureUnknownError,
    "vmdk-esx-sparse": FeatureUnknownError,
    "vmdk-se-sparse": FeatureUnknownError,
    "vmdk-descriptor": ExternalReferenceError,
}


def formats(file: File) -> list[str]:
    """The names of all formats that the file shows, sorted; none for raw."""
    head = file.peek(0, _HEAD)
    found = {name for magic, name in _STARTS.items() if head.startswith(magic)}
    if head.startswith(b"QFI\xfb"):
        found.add("qcow" if head[4:8] == b"\0\0\0\1" else "qcow2")
    if head[_VDI_AT : _VDI_AT + 4] == _VDI_MAGIC:
        found.add("vdi")
    # A sparse VMDK has its descriptor behind its header.
    if "vmdk" not in found and _DESCRIPTOR.search(head):
        found.add("vmdk-descriptor")
    # The footer of a VHD may lack its last byte; a dynamic one has a copy at the start.
    tail = file.peek(file.size - SECTOR, SECTOR)
    if head.startswith(_VHD_MAGIC) or tail.startswith(_VHD_MAGIC) or tail[1:].startswith(_VHD_MAGIC):
        found.add("vhd")
    if tail.startswith(_DMG_MAGIC):
        found.add("dmg")
    # ISO 9660 or UDF; a hybrid that is bootable as a disk is an ISO all the same.
    if any(file.peek(_ISO_AT + at, 5) in _ISO_VOLUMES for at in (0, _ISO_SECTOR)):
        found.add("iso")
    return sorted(found)


def inspector(kind: str) -> Callable[[File], Inspection]:
    """The function that inspects a format."""
    inspect: Callable[[File], Inspection] = importlib.import_module(f"darkroom.formats.{kind}").inspect
    return inspect
