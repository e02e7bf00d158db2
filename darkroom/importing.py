"""Import: a disk image file becomes an active image. One function per step, called in order by the flow.

Each step can be run again, by another process too: it asks the catalog how far the image is. Every step holds the
lease of the image while it works.
"""

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from psycopg.types.json import Jsonb

from darkroom import (
    assembly,
    formats,
    lifecycle,
    rawview,
    reading,
    rules,
    sidecar,
    sources,
    systems,
    upload,
)
from darkroom.catalog import Connection, Row, images, uploads
from darkroom.errors import DarkroomError, RefusedError
from darkroom.formats import partitions
from darkroom.model import GiB, Reader
from darkroom.systems import Systems

Progress = Callable[[int, int], None]
_READERS = 4
_READ_BACK = 16
"""One chunk in so many is read back before an image becomes active."""


class MinimumDiskError(RefusedError):
    """The declared minimum disk is smaller than the image's disk."""

    code = "min-disk-too-small"
    what = "the minimum disk is smaller than the image's own disk"
    default_remedy = "give a larger --min-disk, or none"


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
    """Make the row and take its lease; return the image's id and status.

    The same request for the same source finds the row that an earlier, killed attempt made; if that attempt got to
    the end, the image is active already. A dead attempt with the same name and another request is killed first.
    Raises NameTakenError, LeaseHeldError, and what opening the source raises.
    """
    request.check()
    if request.key:
        to.keys.generate(request.key, {})  # a key that is missing is refused here, not after the checks
    shown, identity = sources.identify(request.source, to.settings)
    wanted = {"request": dataclasses.asdict(request), "source_identity": identity}
    superseded = None
    with to.catalog.transaction() as connection:
        found = images.unfinished(connection, request.name)
        if found and found["status"] in lifecycle.UNFINISHED:
            uploads.take_lease(connection, found["id"])
            if _same(found, wanted):
                images.record_event(connection, "import", found["id"], "started", "resumed")
                return {"image": str(found["id"]), "status": found["status"]}
            kill(connection, found["id"], {"code": "superseded", "message": "another import took the name"})
            superseded = found
        elif found and found["status"] == "active" and _same(found, wanted):
            return {"image": str(found["id"]), "status": "active"}
        columns = {
            "name": request.name,
            "type": request.type,
            "description": request.description,
            "key_name": request.key or None,
            "source": shown,
            "properties": request.properties(),
            **wanted,
        }
        image = images.create(connection, columns, request.tags)
        uploads.take_lease(connection, image)
        images.record_event(connection, "import", image, "started")
    if superseded:
        remove_rest(to, superseded)
    return {"image": str(image), "status": "queued"}


def validate(to: Systems, image: str, progress: Progress) -> dict[str, Any]:
    """Refuse a source that is not safe, not what it claims to be, or too large; before QEMU sees it."""
    with _step(to, image) as row, _source(to, row, progress) as source:
        declared = row["request"]["format"] or source.hint
        found = formats.inspect(source.reader, declared, source.name, to.settings.limits)
        minimum = row["request"]["min_disk"]
        if minimum and minimum * GiB < found.virtual_size:
            raise MinimumDiskError(source.name, f"{-(-found.virtual_size // GiB)} GiB", f"{minimum} GiB")
        columns = {"source_format": found.format, "virtual_size": found.virtual_size}
        properties = {**row["properties"], "source": {"subformat": found.subformat, **found.details}}
        with to.catalog.transaction() as connection:
            uploads.renew_lease(connection, row["id"])
            images.update(connection, row["id"], **columns, properties=properties)
            connection.execute(
                "INSERT INTO disks (image_id, number, virtual_size) VALUES (%s, 0, %s) ON CONFLICT DO NOTHING",
                (row["id"], found.virtual_size),
            )
    return {**columns, "subformat": found.subformat}


def verify_digest(to: Systems, image: str, progress: Progress) -> dict[str, str]:
    """Compare the publisher's digest of the file with the file; raises DigestMismatchError. Takes no lease."""
    row = images.get(to.catalog, image)
    with _source(to, row, _quiet) as source:
        sources.verify_digest(source, row["request"]["digest"], progress)
    return {"digest": row["request"]["digest"]}


def probe(to: Systems, image: str) -> dict[str, Any]:
    """Open the source as a raw view of its disk, confined; record what the partition table shows."""
    with _step(to, image) as row, _disk(to, row) as (_, reader):
        table = dataclasses.asdict(partitions.partitions(reader))
        with to.catalog.transaction() as connection:
            connection.execute(
                "UPDATE disks SET partitions = %s WHERE image_id = %s AND number = 0", (Jsonb(table), row["id"])
            )
    return {"scheme": table["scheme"], "esp": table["esp"], "partitions": len(table["entries"])}


def create_data_key(to: Systems, image: str) -> dict[str, Any]:
    """Create the data key of an encrypted image and wrap it by the KEK; a plain image needs none."""
    with _step(to, image) as row:
        systems.create_data_key(to, row)
        number, _ = systems.ensure_scope(to, row["key_name"])
        with to.catalog.transaction() as connection:
            uploads.renew_lease(connection, row["id"])
            images.update(connection, row["id"], scope_id=number)
    return {"key": row["key_name"]}


def upload_disk(to: Systems, image: str, progress: Progress) -> dict[str, Any]:
    """The pass: all chunks into packs, then the manifest; goes on behind what an earlier attempt recorded."""
    with _step(to, image) as row:
        if row["status"] == "queued":
            with to.catalog.transaction() as connection:
                images.move(connection, row["id"], "saving")
        target = _target(to, row)
        with _disk(to, row) as (source, reader):
            upload.upload(reader, target, progress)
            source.check_unchanged()
        totals = assembly.write_manifest(target, row["virtual_size"])
        sizes = {name: getattr(totals, name) for name in ("allocated_size", "stored_size", "new_size")}
        with to.catalog.transaction() as connection:
            uploads.renew_lease(connection, row["id"])
            images.update(connection, row["id"], **sizes, content_digest=totals.content_digest)
            connection.execute(
                "UPDATE disks SET manifest_digest = %s, manifest_mac = %s WHERE image_id = %s AND number = 0",
                (totals.manifest_digest, totals.manifest_mac, row["id"]),
            )
    return {**sizes, "content_digest": totals.content_digest.hex()}


def read_back(to: Systems, image: str, progress: Progress) -> dict[str, int]:
    """Read every page of the stored manifest and one chunk in sixteen, verified; raises DamagedError."""
    with _step(to, image) as row, reading.open_disk(to, row) as reader:
        read = 0
        with ThreadPoolExecutor(_READERS, "read-back") as pool:
            for page in range(reader.pages):
                refs = reader.refs(page)[::_READ_BACK]
                read += sum(1 for _ in pool.map(reader.fetch, refs))
                progress(page + 1, reader.pages)
    return {"chunks": read}


def activate(to: Systems, image: str) -> dict[str, str]:
    """The last write: the image becomes visible as active and lets go of its lease; the spool is removed."""
    with _step(to, image) as row, to.catalog.transaction() as connection:
        uploads.renew_lease(connection, row["id"])
        images.move(connection, row["id"], "active", active_at=_now(connection))
        uploads.forget(connection, row["id"])
        images.record_event(connection, "import", row["id"], "done")
        sidecar.write(to, connection, row["id"])
    shutil.rmtree(_spool(to, row), ignore_errors=True)
    return {"image": image, "status": "active"}


def describe(to: Systems, image: str) -> dict[str, Any]:
    """What there is to tell of an image at the end, as small JSON."""
    row = images.get(to.catalog, image)
    names = ("name", "status", "source_format", "virtual_size", "allocated_size", "stored_size", "new_size")
    digest = row["content_digest"]
    found = {name: row[name] for name in names}
    return {"image": image, **found, "key": row["key_name"] or "", "content_digest": digest.hex() if digest else ""}


def fail(to: Systems, image: str, error: DarkroomError) -> None:
    """Kill an image whose import cannot go on: reason recorded, data key and references dropped, name free again.

    Does nothing to an image that another process has gone on with.
    """
    row = images.get(to.catalog, image)
    if row["status"] not in lifecycle.UNFINISHED:
        return
    failure = {"code": error.code, "message": str(error)}
    with to.catalog.transaction() as connection:
        uploads.renew_lease(connection, row["id"])
        kill(connection, row["id"], failure)
    remove_rest(to, row)


def kill(connection: Connection, image: UUID, failure: dict[str, str]) -> None:
    """Make an unfinished image final, with the reason; its data key and references go, its name is free again."""
    images.move(connection, image, "killed", failure=failure)
    uploads.forget(connection, image)
    uploads.release(connection, image)
    images.record_event(connection, "import", image, "failed", failure["message"])


def remove_rest(to: Systems, row: Row) -> None:
    """Remove what a killed image has outside of the catalog; its packs are the collector's."""
    for key in [key for key, _ in to.store.list(f"images/{row['id']}/")]:
        to.store.delete(key)
    shutil.rmtree(_spool(to, row), ignore_errors=True)


def _same(found: Row, wanted: dict[str, Any]) -> bool:
    return all(found[name] == value for name, value in wanted.items())


@contextmanager
def _step(to: Systems, image: str) -> Iterator[Row]:
    """The image's row, with its lease held for the block."""
    with uploads.lease(to.catalog, UUID(image)):
        yield images.get(to.catalog, image)


def _spool(to: Systems, row: Row) -> Path:
    return to.settings.spool / str(row["id"])


@contextmanager
def _source(to: Systems, row: Row, progress: Progress) -> Iterator[sources.Source]:
    spool = _spool(to, row)
    spool.mkdir(parents=True, exist_ok=True, mode=0o700)
    with sources.open_source(row["request"]["source"], to.settings, spool, progress) as source:
        if source.identity != row["source_identity"]:
            raise sources.SourceChangedError(source.name, row["source_identity"], source.identity)
        yield source


@contextmanager
def _disk(to: Systems, row: Row) -> Iterator[tuple[sources.Source, Reader]]:
    """The source and the guest-visible bytes of its disk."""
    with _source(to, row, _quiet) as source:
        found = formats.inspect(source.reader, row["source_format"], source.name, to.settings.limits)
        with rawview.open_disk(source, found, _spool(to, row)) as reader:
            yield source, reader


def _target(to: Systems, row: Row) -> upload.Target:
    number, scope = systems.ensure_scope(to, row["key_name"])
    return upload.Target(to.catalog, to.store, row["id"], 0, scope, number, systems.data_key(to, row))


def _now(connection: Any) -> Any:
    return connection.execute("SELECT now() AS now").fetchone()["now"]


def _quiet(done: int, total: int) -> None:
    pass
