"""Replicate: an image becomes another one of its own, under the same key, another, or none.

Where the copy is of the source's own scope, its manifests list the same chunks, sealed for the copy, and its packs are
shared: no data is read or written. Else the disks are read and uploaded like those of any other origin.
"""

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from psycopg.types.json import Jsonb

from darkroom import creation, manifest, reading, rules, systems
from darkroom.catalog import Row, images, uploads, wraps
from darkroom.creation import Progress
from darkroom.download import DiskReader
from darkroom.errors import ConflictError, DamagedError, MissingError, RefusedError
from darkroom.systems import Systems

_LOOK = 5.0
"""Seconds between two looks, while a disk is read, whether the source may still be read."""


class SourceGoneError(RefusedError):
    """The source was deleted, deactivated or unshared before the copy was whole; nothing of the copy stays."""

    code = "source-gone"
    what = "the image that was to be copied cannot be read any more"
    default_remedy = "see whether it was deleted, deactivated or unshared"


class CopyDiffersError(DamagedError):
    """The copy does not have the content of its source; it does not become active."""

    code = "copy-differs"
    what = "the copy has another content than its source"
    default_remedy = "run `darkroom check` on the source"


class KeyChoiceError(RefusedError):
    """A copy was asked for under a key and plain."""

    code = "key-choice"
    what = "a copy is either under a key or plain"
    default_remedy = "give --key or --plain, or none of them for the same as the source"


@dataclasses.dataclass(frozen=True, slots=True)
class ReplicateRequest:
    """What a user asks for: a copy of `image` (an id, prefix or name) as `name`.

    Under `key`, or `plain`, or by default encrypted as the source is: under the key by which the project reads it. An
    empty description stands for the source's.
    """

    image: str
    name: str
    key: str = ""
    plain: bool = False
    description: str = ""

    def check(self) -> None:
        """Raise the RefusedError of the first rule that the request breaks."""
        rules.check_name(self.name)
        rules.check_description(self.description)
        if self.key and self.plain:
            raise KeyChoiceError(self.name)


def register(to: Systems, request: ReplicateRequest) -> dict[str, str]:
    """Make the row of the copy and take its lease, or find those of an attempt that was killed; its id and status.

    Raises ImageMissingError, NotReadableError, what reading the source's data key raises, and what
    `creation.register` raises.
    """
    request.check()
    source = images.find(to.catalog, request.image)
    reading.require_active(source)
    systems.data_key(to, source)  # a key that cannot be used is told now, not after the row is made
    key_name = _key_name(to, source, request)
    wanted = {
        "operation": "replicate",
        "request": {"image": str(source["id"]), "name": request.name, "key": key_name or ""},
        "source_identity": source["content_digest"].hex(),
        "name": request.name,
        "type": source["type"],
        "description": request.description or source["description"],
        "key_name": key_name,
        "source": f"image {source['id']}",
        "source_format": source["source_format"],
        "properties": {**source["properties"], "replicated_from": str(source["id"])},
    }
    return creation.register(to, wanted, images.detail(to.catalog, source["id"])["tags"])


def _key_name(to: Systems, source: Row, request: ReplicateRequest) -> str | None:
    if request.key or request.plain or source["key_name"] is None:
        return request.key or None
    with to.catalog.transaction() as connection:
        wrap = wraps.of_image(connection, source["id"])
    if wrap is None:
        raise systems.WrapMissingError(str(source["id"]))
    key_name: str = wrap["key_name"]
    return key_name


def add_disks(to: Systems, image: str) -> dict[str, int]:
    """Record the disks of the copy, which are those of the source."""
    with creation.step(to, image) as row:
        found = images.disks(to.catalog, _source(to, row)["id"])
        with to.catalog.transaction() as connection:
            uploads.renew_lease(connection, row["id"])
            creation.add_disks(connection, row["id"], [disk["virtual_size"] for disk in found])
            for disk in found:
                connection.execute(
                    "UPDATE disks SET partitions = %s, profile = %s WHERE image_id = %s AND number = %s",
                    (Jsonb(disk["partitions"]), disk["profile"], row["id"], disk["number"]),
                )
    return {"disks": len(found)}


def copy_disks(to: Systems, image: str, progress: Progress) -> dict[str, Any]:
    """Bring all disks of the source into the copy; goes on behind what an earlier attempt recorded.

    Returns the sizes, the content digest, and whether the copy is `linked`: it shares the packs of its source, and
    nothing needs to be read back. Raises SourceGoneError, CopyDiffersError.
    """
    with creation.step(to, image) as row:
        source = _source(to, row)
        if source["scope_id"] == row["scope_id"]:
            return {**_link(to, row, source, progress), "linked": True}
        found = creation.upload_disks(to, row, lambda number: _disk(to, row, number), _looking(to, row, progress))
        if found["content_digest"] != source["content_digest"].hex():
            raise CopyDiffersError(str(row["id"]), source["content_digest"].hex(), found["content_digest"])
        return {**found, "linked": False}


def _link(to: Systems, row: Row, source: Row, progress: Progress) -> dict[str, Any]:
    """References first, as an upload takes them, then the manifests."""
    with to.catalog.transaction() as connection:
        _require_readable(images.locked(connection, source["id"]))
        uploads.renew_lease(connection, row["id"])
        uploads.share_packs(connection, source["id"], row["id"])
        if row["status"] == "queued":
            images.move(connection, row["id"], "saving")
    old_key, new_key = systems.data_key(to, source), systems.data_key(to, row)
    disks = images.disks(to.catalog, source["id"])
    written = []
    for number, disk in enumerate(disks):
        table = manifest.read(to.store, source["id"], disk["number"], disk["manifest_digest"])
        written.append(manifest.copy(to.store, table, row["id"], old_key, new_key))
        manifest.verify(to.store, row["id"], disk["number"], written[-1][0], new_key)
        progress(number + 1, len(disks))
    sizes = {"allocated_size": source["allocated_size"], "stored_size": source["stored_size"], "new_size": 0}
    with to.catalog.transaction() as connection:
        return creation.record_upload(connection, row, sizes, source["content_digest"], written)


def _source(to: Systems, row: Row) -> Row:
    """The source of a copy, if it may be read; raises SourceGoneError."""
    try:
        return _require_readable(images.get(to.catalog, row["request"]["image"]))
    except MissingError:
        raise SourceGoneError(row["request"]["image"], "an active image", "none") from None


def _require_readable(source: Row) -> Row:
    if source["status"] != "active":
        raise SourceGoneError(str(source["id"]), "an active image", f"status {source['status']}")
    return source


@contextmanager
def _disk(to: Systems, row: Row, number: int) -> Iterator[DiskReader]:
    """A disk of the source; that the source has gone meanwhile is told by that name, at the latest at the end."""
    source = _source(to, row)
    try:
        with reading.open_disk(to, source, number) as reader:
            yield reader
    except (MissingError, ConflictError, DamagedError):
        _source(to, row)
        raise
    _source(to, row)


def _looking(to: Systems, row: Row, progress: Progress) -> Progress:
    """Progress that ends the pass soon after the source has gone, not at the end of a large disk."""
    looked = time.monotonic()

    def update(done: int, total: int) -> None:
        nonlocal looked
        if time.monotonic() - looked >= _LOOK:
            _source(to, row)
            looked = time.monotonic()
        progress(done, total)

    return update
