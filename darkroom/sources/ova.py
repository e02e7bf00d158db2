"""An OVA: a tar of an OVF description, its disks and a manifest (DMTF DSP0243). Its disks are taken in place."""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree
from xml.parsers import expat

from darkroom.errors import RefusedError
from darkroom.model import Extent, MiB, Reader
from darkroom.rawdisk import RawDisk
from darkroom.sources import Progress, Source, hint_of, spool, tar

_MAX_MEMBERS = 64
_MAX_TEXT = 1 * MiB
_PIECE = 4 * MiB
_MANIFEST_LINE = re.compile(r"(SHA1|SHA256|SHA384|SHA512) ?\((.+)\) ?= ?([0-9a-fA-F]+)")


class OvaInvalidError(RefusedError):
    """An OVA that is not as the standard says, or made to mislead."""

    code = "ova-invalid"
    what = "the OVA is not valid"
    default_remedy = "export it again, or unpack it and import its disk"


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


def opened(source: Source, folder: Path, progress: Progress) -> Source:
    """The source itself, or the disks of the OVA that it is; raises the errors of this module.

    That the members are as the manifest says is noted in `folder`, so that it is checked once for an identity.
    """
    if not tar.is_tar(source.reader):
        if source.name.lower().endswith(".ova"):
            raise OvaInvalidError(source.name, "a tar archive", "another file")
        return source
    try:
        members = tar.members(source.reader, _MAX_MEMBERS)
    except tar.TarError as error:
        raise OvaInvalidError(source.name, f"a tar archive of at most {_MAX_MEMBERS} plain files", str(error)) from None
    descriptor = _only(source, members, ".ovf")
    root = _parse(source, _text(source, descriptor))
    disks = _disks(source, root, members)
    properties = _properties(root) | {"manifest": _verified(source, members, (descriptor, *disks), folder, progress)}
    first, *further = (replace(_member(source, disk), properties=properties) for disk in disks)
    return replace(first, further=tuple(further))


def _member(source: Source, disk: tar.Member) -> Source:
    """The bytes of a disk in place."""
    hint = hint_of(disk.name) or "vmdk"
    if source.fd is None:
        return replace(source, name=disk.name, reader=SliceReader(source.reader, disk.offset, disk.size), hint=hint)
    local = RawDisk(source.fd, disk.name, disk.offset, disk.size)
    return replace(source, name=disk.name, reader=local, fd_range=(disk.offset, disk.size), hint=hint)


def _only(source: Source, members: dict[str, tar.Member], suffix: str) -> tar.Member:
    found = [member for name, member in members.items() if name.lower().endswith(suffix)]
    if len(found) != 1:
        raise OvaInvalidError(source.name, f"one {suffix} file", f"{len(found)}")
    return found[0]


def _text(source: Source, member: tar.Member) -> bytes:
    if member.size > _MAX_TEXT:
        raise OvaInvalidError(source.name, f"at most {_MAX_TEXT} bytes of text", f"{member.size}")
    return source.reader.read(member.offset, member.size)


def _parse(source: Source, descriptor: bytes) -> ElementTree.Element:
    """XML without a document type: no entities, so nothing expands and nothing is fetched."""
    parser = expat.ParserCreate()

    def refuse(*_: object) -> None:
        raise OvaInvalidError(source.name, "a description without a document type", "one")

    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(descriptor, True)
        return ElementTree.fromstring(descriptor)  # noqa: S314 - the parse above refused what is dangerous
    except (expat.ExpatError, ElementTree.ParseError, ValueError, LookupError) as error:
        raise OvaInvalidError(source.name, "XML", str(error)) from None


def _find(root: ElementTree.Element, path: str) -> Iterator[ElementTree.Element]:
    """Elements by their names, whichever version of the standard (DSP8023) names their namespace."""
    return root.iterfind("/".join(f"{{*}}{name}" for name in path.split("/")))


def _attribute(element: ElementTree.Element, name: str) -> str:
    """An attribute by its name: in the namespace of its element's version, or in none."""
    return element.get(f"{element.tag.rpartition('}')[0]}}}{name}") or element.get(name) or ""


def _disks(source: Source, root: ElementTree.Element, members: dict[str, tar.Member]) -> list[tar.Member]:
    """The files of the disks, by the references of the OVF, as they are attached."""
    disks = sorted(_find(root, "DiskSection/Disk"), key=_attachment(root))
    if not disks:
        raise OvaInvalidError(source.name, "a disk", "none")
    found = [_file(source, root, members, disk) for disk in disks]
    if len({member.offset for member in found}) < len(found):
        raise OvaInvalidError(source.name, "a file for each disk", "one for several")
    return found


def _attachment(root: ElementTree.Element) -> Callable[[ElementTree.Element], tuple[int, int]]:
    """What to order disks by: controllers as the description has them, then the place there.

    Disks that the hardware does not mention come last, as they are listed.
    """
    places: dict[str, tuple[int, int]] = {}
    controllers: list[str] = []
    for item in root.iterfind(".//{*}VirtualHardwareSection/{*}Item"):
        fields = {child.tag.rpartition("}")[2]: (child.text or "").strip() for child in item}
        host, parent, address = (fields.get(name, "") for name in ("HostResource", "Parent", "AddressOnParent"))
        if "/disk/" in host:
            if parent not in controllers:
                controllers.append(parent)
            place = int(address) if address.isdecimal() and len(address) < 10 else _MAX_MEMBERS
            places.setdefault(host.rpartition("/disk/")[2], (controllers.index(parent), place))
    return lambda disk: places.get(_attribute(disk, "diskId"), (_MAX_MEMBERS, 0))


def _file(
    source: Source, root: ElementTree.Element, members: dict[str, tar.Member], disk: ElementTree.Element
) -> tar.Member:
    """The file of a disk, by the references of the OVF."""
    if _attribute(disk, "parentRef"):
        raise OvaInvalidError(source.name, "a disk of its own", "one with a parent")
    reference = _attribute(disk, "fileRef")
    files = [file for file in _find(root, "References/File") if _attribute(file, "id") == reference]
    if len(files) != 1:
        raise OvaInvalidError(source.name, "one file of the disk", f"{len(files)}")
    href = _attribute(files[0], "href")
    member = members.get(href) or members.get(unquote(href))
    if not member:
        raise OvaInvalidError(source.name, "a disk that is in the archive", repr(href[:100]))
    if _attribute(files[0], "compression") not in ("", "identity") or _attribute(files[0], "chunkSize"):
        raise OvaInvalidError(source.name, "a disk as one plain file", "a compressed or split one")
    return member


def _properties(root: ElementTree.Element) -> dict[str, str]:
    """What the description tells of the server, as its writer put it; keys that it does not tell are left out."""
    system = next(_find(root, "VirtualSystem"), None)
    if system is None:
        return {}
    config = {_attribute(entry, "key"): _attribute(entry, "value") for entry in system.iterfind(".//{*}Config")}
    found = {
        "name": next((entry.text or "" for entry in _find(system, "Name")), "") or _attribute(system, "id"),
        "os": next((entry.text or "" for entry in _find(system, "OperatingSystemSection/Description")), ""),
        "firmware": config.get("firmware", ""),
    }
    return {name: value.strip()[:255] for name, value in found.items() if value.strip()}


def _verified(
    source: Source, members: dict[str, tar.Member], needed: tuple[tar.Member, ...], folder: Path, progress: Progress
) -> str:
    """Compare every member that the manifest lists, `needed` ones among them; "none" where there is no manifest."""
    if not any(name.lower().endswith(".mf") for name in members):
        return "none"
    listed = list(_manifest(source, members))
    for member in needed:
        if all(member is not found for found, _, _ in listed):
            raise OvaInvalidError(source.name, f"{member.name} in its manifest", "no line for it")
    spool.file_of(
        spool.path_of(folder, "manifest", source.identity),
        source.name,
        lambda: _compared(source, listed, progress),
        limit=_MAX_TEXT,
    )
    return "verified"


def _compared(source: Source, listed: list[tuple[tar.Member, str, str]], progress: Progress) -> Iterator[bytes]:
    """A line for each member that has the digest that is listed."""
    total, done = sum(member.size for member, _, _ in listed), 0
    for member, algorithm, wanted in listed:
        hasher = hashlib.new(algorithm)
        for at in range(member.offset, member.offset + member.size, _PIECE):
            piece = source.reader.read(at, min(_PIECE, member.offset + member.size - at))
            hasher.update(piece)
            done += len(piece)
            progress(done, total)
        if hasher.hexdigest() != wanted:
            raise OvaDigestError(f"{source.name}: {member.name}", f"{algorithm}:{wanted}", hasher.hexdigest())
        yield f"{algorithm}:{wanted} {member.name}\n".encode()


def _manifest(source: Source, members: dict[str, tar.Member]) -> Iterator[tuple[tar.Member, str, str]]:
    """Member, algorithm and digest of each line; a name may have one line only."""
    seen = set()
    for line in _text(source, _only(source, members, ".mf")).decode(errors="replace").splitlines():
        found = _MANIFEST_LINE.fullmatch(line.strip())
        if found and found[2] in members and found[2] not in seen:
            seen.add(found[2])
            yield members[found[2]], found[1].lower(), found[3].lower()
        elif line.strip():
            raise OvaInvalidError(source.name, "a manifest of its own files", repr(line[:100]))
