"""Import: a disk image file becomes an active image. What is special to a file; the rest is `creation`'s.

Each step can be run again, by another process too: the source is opened anew and must be the same.
"""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from darkroom import creation, formats, lifecycle, rawview, rules, sources
from darkroom.catalog import Row, images, uploads
from darkroom.errors import RefusedError
from darkroom.model import Reader
from darkroom.sources.ova import OvaInvalidError
from darkroom.systems import Systems

Progress = Callable[[int, int], None]


class ManyDisksError(RefusedError):
    """A source with more than one disk, of which a data image was asked for."""

    code = "many-disks"
    what = "the source holds more than one disk, and a data image has one"
    default_remedy = "import it without --type data, as a full-server image"


@dataclasses.dataclass(frozen=True, slots=True)
class ImportRequest:
    """What a user asks for. Sizes: `min_disk` in GiB, `min_ram` and `max_ram` in MiB; 0 and "" mean not given."""

    source: str
    name: str
    key: str = ""
    type: Literal["system", "data"] = "system"
    digest: str = ""
    format: str = ""
    min_disk: int = 0
    min_ram: int = 0
    max_ram: int = 0
    os_type: str = ""
    os_version: str = ""
    description: str = ""
    tags: dict[str, str] = dataclasses.field(default_factory=dict)
    quick: bool = False

    def check(self) -> None:
        """Raise the RefusedError of the first rule that the request breaks."""
        rules.check_name(self.name)
        rules.check_description(self.description)
        rules.check_memory(self.min_ram, self.max_ram)
        rules.check_min_disk(self.min_disk, self.type)
        rules.check_tags(self.tags)
        sources.check_digest(self.digest)

    def properties(self) -> dict[str, Any]:
        """What the image keeps of the request as its properties."""
        names = ("min_disk", "min_ram", "max_ram", "os_type", "os_version")
        return {name: getattr(self, name) for name in names if getattr(self, name)}


def register(to: Systems, request: ImportRequest) -> dict[str, str]:
    """Make the row and take its lease, or find those of an attempt that was killed; the image's id and status.

    Raises what `creation.register` and opening the source raise.
    """
    request.check()
    return creation.register(to, _wanted(to, request), request.tags)


def _wanted(to: Systems, request: ImportRequest) -> Row:
    """The columns of the image that a request asks for."""
    shown, identity = sources.identify(request.source, to.settings)
    return {
        "operation": "import",
        "request": dataclasses.asdict(request),
        "source_identity": identity,
        "name": request.name,
        "type": request.type,
        "description": request.description,
        "key_name": request.key or None,
        "source": shown,
        "properties": request.properties(),
    }


def existing(to: Systems, request: ImportRequest) -> Row | None:
    """The active image that this import has made already, if any. Changes nothing.

    Raises NameTakenError where another image has the name, and what opening the source raises.
    """
    wanted = _wanted(to, request)
    with to.catalog.transaction() as connection:
        found = images.unfinished(connection, request.name)
    if found is None or found["status"] in lifecycle.UNFINISHED:
        return None
    if not creation.is_same(found, wanted):
        raise images.NameTakenError(request.name)
    return found


def validate(to: Systems, image: str, progress: Progress) -> dict[str, Any]:
    """Refuse a source that is not safe, not what it claims to be, or too large; before QEMU sees it.

    A source of several disks makes a full-server image, and an ISO an image of type `iso`.
    """
    with creation.step(to, image) as row, _source(to, row, progress) as source:
        found = _validate(to, row, source)
    sizes = [disk.virtual_size for disk in found]
    return {"source_format": found[0].format, "virtual_size": sum(sizes), "subformat": found[0].subformat}


def _validate(to: Systems, row: Row, source: sources.Source) -> list[formats.Inspection]:
    if source.further and row["request"]["type"] == "data":
        raise ManyDisksError(source.name, "one disk", f"{len(source.disks)}")
    found = [_inspect(to, row, disk) for disk in source.disks]
    if source.further and any(each.format == "iso" for each in found):
        raise OvaInvalidError(source.name, "disks alone", "an ISO among them")
    rules.check_disk_fits(row["request"]["min_disk"], found[0].virtual_size, source.name)
    told: dict[str, Any] = {"subformat": found[0].subformat, **found[0].details}
    if source.properties:
        told["ovf"] = source.properties
    properties = {**row["properties"], "source": told}
    kind = "full" if source.further else "iso" if found[0].format == "iso" else row["request"]["type"]
    if kind == "iso" and found[0].subformat in rules.BOOT_MODES:  # else it boots in both
        properties["boot_mode"] = found[0].subformat
    columns = {"source_format": found[0].format, "properties": properties}
    with to.catalog.transaction() as connection:
        uploads.renew_lease(connection, row["id"])
        images.update(connection, row["id"], type=kind, **columns)
        creation.add_disks(connection, row["id"], [disk.virtual_size for disk in found])
    return found


def _inspect(to: Systems, row: Row, disk: sources.Source) -> formats.Inspection:
    return formats.inspect(disk.reader, row["request"]["format"] or disk.hint, disk.name, to.settings.limits)


def verify_digest(to: Systems, image: str, progress: Progress) -> dict[str, str]:
    """Compare the publisher's digest of the file with the file; raises DigestMismatchError. Takes no lease."""
    row = images.get(to.catalog, image)
    with _source(to, row, _quiet) as source:
        sources.verify_digest(source, row["request"]["digest"], progress)
    return {"digest": row["request"]["digest"]}


def probe(to: Systems, image: str) -> list[dict[str, Any]]:
    """Open each disk of the source as a raw view, confined; record what its partition table shows."""
    found = []
    with creation.step(to, image) as row:
        for disk in images.disks(to.catalog, row["id"]):
            with _disk(to, row, disk["number"]) as reader:
                found.append(creation.look(to, row, disk["number"], reader))
    return found


def upload_disk(to: Systems, image: str, progress: Progress) -> dict[str, Any]:
    """The pass: all chunks into packs, then the manifest; raises SourceChangedError."""
    with creation.step(to, image) as row:
        return creation.upload_disks(to, row, lambda number: _disk(to, row, number), progress)


def take_in(to: Systems, image: str) -> None:
    """All steps from `validate` to `upload_disk`, with the source opened, inspected and served once for all of them.

    For small images, which take longer to open than to read. Can be repeated, and gone on with by the steps.
    """
    with creation.step(to, image) as row, _source(to, row, _quiet) as source:
        found = _validate(to, row, source)
        if row["request"]["digest"]:
            sources.verify_digest(source, row["request"]["digest"], _quiet)
        creation.create_data_key(to, image)

        @contextmanager
        def opened(number: int) -> Iterator[Reader]:
            with rawview.open_disk(source.disks[number], found[number], creation.spool(to, row)) as reader:
                creation.look(to, row, number, reader)
                yield reader
                source.check_unchanged()

        creation.upload_disks(to, images.get(to.catalog, image), opened, _quiet)


@contextmanager
def _source(to: Systems, row: Row, progress: Progress) -> Iterator[sources.Source]:
    with sources.open_source(row["request"]["source"], to.settings, creation.spool(to, row), progress) as source:
        if source.identity != row["source_identity"]:
            raise sources.SourceChangedError(source.name, row["source_identity"], source.identity)
        yield source


@contextmanager
def _disk(to: Systems, row: Row, number: int) -> Iterator[Reader]:
    """The guest-visible bytes of a disk of the source; raises SourceChangedError at the end if they were others."""
    with _source(to, row, _quiet) as source:
        disk = source.disks[number]
        with rawview.open_disk(disk, _inspect(to, row, disk), creation.spool(to, row)) as reader:
            yield reader
            source.check_unchanged()


def _quiet(done: int, total: int) -> None:
    pass
