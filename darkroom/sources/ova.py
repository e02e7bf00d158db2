"""An OVA: a tar of an OVF description, its disks and a manifest (DMTF DSP0243). Its one disk is taken in place."""

import hashlib
import re
import tarfile
from dataclasses import replace
from xml.etree import ElementTree
from xml.parsers import expat

from darkroom.errors import RefusedError
from darkroom.model import Extent, MiB, Reader
from darkroom.rawdisk import RawDisk
from darkroom.sources import Source, hint_of

_OVF = "{http://schemas.dmtf.org/ovf/envelope/1}"
_MAX_MEMBERS = 64
_MAX_TEXT = 1 * MiB
_PIECE = 4 * MiB
_MANIFEST_LINE = re.compile(r"(SHA1|SHA256|SHA512) ?\((.+)\) ?= ?([0-9a-fA-F]+)")


class OvaInvalidError(RefusedError):
    """An OVA that is not as the standard says, or made to mislead."""

    code = "ova-invalid"
    what = "the OVA is not valid"
    default_remedy = "export it again, or unpack it and import its disk"


class OvaManyDisksError(RefusedError):
    """An OVA with more than one disk."""

    code = "ova-many-disks"
    what = "the OVA holds more than one disk"
    default_remedy = "unpack it with tar and import each disk; full-server images are to come"


class OvaDigestError(RefusedError):
    """A member of an OVA does not have the digest in its manifest."""

    code = "ova-digest-mismatch"
    what = "a file in the OVA does not have the digest in its manifest"
    default_remedy = "download it again"


class SliceReader:
    """A range of another Reader."""

    def __init__(self, reader: Reader, offset: int, size: int) -> None:
        self._reader, self._offset, self.size = reader, offset, size

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes."""
        return self._reader.read(self._offset + offset, length)

    def extents(self, offset: int, length: int) -> list[Extent]:
        """The extents of the range."""
        found = self._reader.extents(self._offset + offset, length)
        return [Extent(extent.start - self._offset, extent.length, extent.zero) for extent in found]

    def close(self) -> None:
        """The other Reader is its owner's."""


def opened(source: Source) -> Source:
    """The source itself, or the one disk of the OVA that it is; raises the errors of this module."""
    if not _is_tar(source.reader):
        if source.name.lower().endswith(".ova"):
            raise OvaInvalidError(source.name, "a tar archive", "another file")
        return source
    members = _members(source)
    descriptor = _only(source, members, ".ovf")
    disk = _disk(source, _text(source, members[descriptor]), members)
    _verify(source, members, descriptor, disk)
    offset, size = members[disk]
    if source.fd is None:
        reader: Reader = SliceReader(source.reader, offset, size)
        return replace(source, name=disk, reader=reader, hint=hint_of(disk) or "vmdk")
    local = RawDisk(source.fd, disk, offset, size)
    return replace(source, name=disk, reader=local, fd_range=(offset, size), hint=hint_of(disk) or "vmdk")


def _is_tar(reader: Reader) -> bool:
    return reader.size >= 512 and reader.read(257, 5) == b"ustar"


class _File:
    """The little of a file object that tarfile asks for."""

    def __init__(self, reader: Reader) -> None:
        self._reader, self._at = reader, 0

    def read(self, length: int = -1) -> bytes:
        length = min(max(length, 0), self._reader.size - self._at, _MAX_TEXT)
        data = self._reader.read(self._at, length)
        self._at += length
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = min(offset, self._reader.size)
        return self._at

    def tell(self) -> int:
        return self._at


def _members(source: Source) -> dict[str, tuple[int, int]]:
    """Name to offset and size of every member; only plain files with plain names are allowed."""
    members: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(fileobj=_File(source.reader), mode="r:") as archive:  # type: ignore[call-overload]
            while member := archive.next():
                archive.members = []  # tarfile keeps every member that it met
                name = member.name
                if not member.isreg() or member.issparse() or "/" in name or "\\" in name or name.startswith("."):
                    raise OvaInvalidError(source.name, "plain files in no folder", repr(name))
                if name in members or len(members) >= _MAX_MEMBERS:
                    raise OvaInvalidError(source.name, f"at most {_MAX_MEMBERS} files, each once", repr(name))
                if member.offset_data + member.size > source.reader.size:
                    raise OvaInvalidError(source.name, f"{member.size} bytes of {name}", "fewer")
                members[name] = (member.offset_data, member.size)
    except (tarfile.TarError, ValueError, EOFError, OverflowError) as error:
        raise OvaInvalidError(source.name, "a tar archive", str(error)) from None
    return members


def _only(source: Source, members: dict[str, tuple[int, int]], suffix: str) -> str:
    found = [name for name in members if name.lower().endswith(suffix)]
    if len(found) != 1:
        raise OvaInvalidError(source.name, f"one {suffix} file", f"{len(found)}")
    return found[0]


def _text(source: Source, member: tuple[int, int]) -> bytes:
    offset, size = member
    if size > _MAX_TEXT:
        raise OvaInvalidError(source.name, f"at most {_MAX_TEXT} bytes of text", f"{size}")
    return source.reader.read(offset, size)


def _disk(source: Source, descriptor: bytes, members: dict[str, tuple[int, int]]) -> str:
    """The name of the one disk, by the references of the OVF."""
    root = _parse(source, descriptor)
    files = {entry.get(f"{_OVF}id"): entry for entry in root.iterfind(f"{_OVF}References/{_OVF}File")}
    disks = list(root.iterfind(f"{_OVF}DiskSection/{_OVF}Disk"))
    if len(disks) != 1:
        kind = OvaManyDisksError if disks else OvaInvalidError
        raise kind(source.name, "one disk", f"{len(disks)}")
    file = files.get(disks[0].get(f"{_OVF}fileRef"))
    name = file.get(f"{_OVF}href", "") if file is not None else ""
    if file is None or name not in members:
        raise OvaInvalidError(source.name, "a disk that is in the archive", repr(name))
    if file.get(f"{_OVF}compression") or file.get(f"{_OVF}chunkSize"):
        raise OvaInvalidError(source.name, "a disk as one plain file", "a compressed or split one")
    return name


def _parse(source: Source, descriptor: bytes) -> ElementTree.Element:
    """XML without a document type: no entities, so nothing expands and nothing is fetched."""
    parser = expat.ParserCreate()

    def refuse(*_: object) -> None:
        raise OvaInvalidError(source.name, "a description without a document type", "one")

    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(descriptor, True)
        return ElementTree.fromstring(descriptor)  # noqa: S314 - the parse above refused what is dangerous
    except (expat.ExpatError, ElementTree.ParseError) as error:
        raise OvaInvalidError(source.name, "XML", str(error)) from None


def _verify(source: Source, members: dict[str, tuple[int, int]], descriptor: str, disk: str) -> None:
    """Compare every member that the manifest lists; one that is there must list the disk and the description."""
    manifests = [name for name in members if name.lower().endswith(".mf")]
    if not manifests:
        return
    listed = set()
    for line in _text(source, members[_only(source, members, ".mf")]).decode(errors="replace").splitlines():
        if not line.strip():
            continue
        found = _MANIFEST_LINE.fullmatch(line.strip())
        if not found or found[2] not in members:
            raise OvaInvalidError(source.name, "a manifest of its own files", repr(line[:100]))
        digest = _digest(source, members[found[2]], found[1].lower())
        if digest != found[3].lower():
            raise OvaDigestError(f"{source.name}: {found[2]}", found[3].lower(), digest)
        listed.add(found[2])
    for name in (descriptor, disk):
        if name not in listed:
            raise OvaInvalidError(source.name, f"{name} in its manifest", "no line for it")


def _digest(source: Source, member: tuple[int, int], algorithm: str) -> str:
    offset, size = member
    hasher = hashlib.new(algorithm)
    for at in range(offset, offset + size, _PIECE):
        hasher.update(source.reader.read(at, min(_PIECE, offset + size - at)))
    return hasher.hexdigest()
