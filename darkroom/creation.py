"""Creation: an image of one disk or several, from any origin; what an import and every other way in have in common.

register → add disks → create data key → upload → read back → activate, or fail. Each step can be run again, by another
process too: it asks the catalog how far the image is. Every step holds the lease of the image while it works.
"""

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from darkroom import assembly, content, keys, lifecycle, reading, sidecar, systems, upload
from darkroom.catalog import Connection, Row, images, uploads
from darkroom.errors import DarkroomError
from darkroom.formats import partitions
from darkroom.model import Reader
from darkroom.systems import Systems

Progress = Callable[[int, int], None]
OpenDisk = Callable[[int], AbstractContextManager[Reader]]
"""Opens the guest-visible bytes of a disk by its number. It may raise at its end, when all is read: that the origin
has changed meanwhile."""

_READERS = 4
_READ_BACK = 16
"""One chunk in so many is read back before an image becomes active."""
_SIZES = ("allocated_size", "stored_size", "new_size")


def register(to: Systems, wanted: Row, tags: dict[str, str]) -> dict[str, str]:
    """Make the row and take its lease; return the image's id and status.

    `wanted` holds columns of the image. An earlier, killed attempt whose operation, request and, if given, source
    identity are the same is gone on with; if it got to the end, the image is active already. A dead attempt of the
    same name for something else is killed first. Raises NameTakenError, LeaseHeldError, and for a
    key that cannot be used what `keys.require_usable` raises.
    """
    if wanted["key_name"]:
        keys.require_usable(to.keys, wanted["key_name"])  # refused here, not after the checks
    superseded = None
    with to.catalog.transaction() as connection:
        found = images.unfinished(connection, wanted["name"])
        if found and found["status"] in lifecycle.UNFINISHED:
            uploads.take_lease(connection, found["id"])
            if is_same(found, wanted):
                images.record_event(connection, wanted["operation"], found["id"], "started", "resumed")
                return {"image": str(found["id"]), "status": found["status"]}
            kill(connection, found, {"code": "superseded", "message": f"another {wanted['operation']} took the name"})
            superseded = found
        elif found and found["status"] == "active" and is_same(found, wanted):
            return {"image": str(found["id"]), "status": "active"}
        image = images.create(connection, wanted, tags)
        uploads.take_lease(connection, image)
        images.record_event(connection, wanted["operation"], image, "started")
    if superseded:
        remove_rest(to, superseded)
    return {"image": str(image), "status": "queued"}


def is_same(found: Row, wanted: Row) -> bool:
    """Whether an image was begun as the same operation, for the same request and source."""
    return all(found[name] == wanted.get(name, found[name]) for name in ("operation", "request", "source_identity"))


@contextmanager
def step(to: Systems, image: str) -> Iterator[Row]:
    """The image's row, with its lease held for the block."""
    with uploads.lease(to.catalog, UUID(image)):
        yield images.get(to.catalog, image)


def spool(to: Systems, row: Row) -> Path:
    """The folder for what an unfinished image needs on this machine; removed when it is final."""
    folder = _spool(to, row)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _spool(to: Systems, row: Row) -> Path:
    return to.settings.spool / str(row["id"])


def add_disks(connection: Connection, image: UUID, sizes: Sequence[int]) -> None:
    """Record the disks of an image by their virtual sizes in bytes, disk 0 first; those that are known stay."""
    for number, size in enumerate(sizes):
        connection.execute(
            "INSERT INTO disks (image_id, number, virtual_size) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
            (image, number, size),
        )
    images.update(connection, image, virtual_size=sum(sizes))


def look(to: Systems, row: Row, number: int, reader: Reader) -> dict[str, Any]:
    """Record what the partition table of a disk shows."""
    table = dataclasses.asdict(partitions.partitions(reader))
    with to.catalog.transaction() as connection:
        connection.execute(
            "UPDATE disks SET partitions = %s WHERE image_id = %s AND number = %s",
            (Jsonb(table), row["id"], number),
        )
    return {"scheme": table["scheme"], "esp": table["esp"], "partitions": len(table["entries"])}


def restart(to: Systems, row: Row, sizes: Sequence[int]) -> None:
    """Begin again with disks that are not those of an earlier attempt: what it recorded of the disks is dropped.

    Its chunks stay in the index, until the collector comes: what is the same is not stored again.
    """
    for key in [key for key, _ in to.store.list(f"images/{row['id']}/")]:
        to.store.delete(key)
    with to.catalog.transaction() as connection:
        uploads.renew_lease(connection, row["id"])
        connection.execute("DELETE FROM runs WHERE image_id = %s", (row["id"],))
        connection.execute("DELETE FROM refs WHERE image_id = %s", (row["id"],))
        connection.execute("DELETE FROM disks WHERE image_id = %s", (row["id"],))
        add_disks(connection, row["id"], sizes)


def create_data_key(to: Systems, image: str) -> dict[str, Any]:
    """Create the data key of an encrypted image and wrap it by the KEK; a plain image needs none."""
    with step(to, image) as row:
        systems.create_data_key(to, row)
        number, _ = systems.ensure_scope(to, row["key_name"])
        with to.catalog.transaction() as connection:
            uploads.renew_lease(connection, row["id"])
            images.update(connection, row["id"], scope_id=number)
    return {"key": row["key_name"]}


def upload_disks(to: Systems, row: Row, open_disk: OpenDisk, progress: Progress) -> dict[str, Any]:
    """The pass over each disk: all chunks into packs, then its manifest; goes on behind what is recorded already.

    Within a `step`. Returns the sizes and the content digest, which are those of all disks together.
    """
    if row["status"] == "queued":
        with to.catalog.transaction() as connection:
            images.move(connection, row["id"], "saving")
    number, scope = systems.ensure_scope(to, row["key_name"])
    data_key = systems.data_key(to, row)
    found = []
    disks = images.disks(to.catalog, row["id"])
    for disk in disks:
        target = upload.Target(to.catalog, to.store, row["id"], disk["number"], scope, number, data_key)
        with open_disk(disk["number"]) as reader:
            upload.upload(reader, target, _part(progress, disks, disk["number"]))
        found.append(assembly.write_manifest(target, disk["virtual_size"]))
    sizes = {name: sum(getattr(totals, name) for totals in found) for name in _SIZES}
    digest = content.digest_of_disks([totals.content_digest for totals in found])
    manifests = [(totals.manifest_digest, totals.manifest_mac) for totals in found]
    with to.catalog.transaction() as connection:
        recorded = record_upload(connection, row, sizes, digest, manifests)
        uploads.drop_unused(connection, row["id"])
    return recorded


def record_upload(
    connection: Connection,
    row: Row,
    sizes: dict[str, int],
    digest: bytes,
    manifests: Sequence[tuple[bytes, bytes | None]],
) -> dict[str, Any]:
    """Record what the disks came to: sizes and content digest, and of each disk's manifest its digest and MAC."""
    uploads.renew_lease(connection, row["id"])
    images.update(connection, row["id"], **sizes, content_digest=digest)
    for number, (manifest_digest, mac) in enumerate(manifests):
        connection.execute(
            "UPDATE disks SET manifest_digest = %s, manifest_mac = %s WHERE image_id = %s AND number = %s",
            (manifest_digest, mac, row["id"], number),
        )
    return {**sizes, "content_digest": digest.hex()}


def _part(progress: Progress, disks: Sequence[Row], number: int) -> Progress:
    """Progress of one disk as that of all of them."""
    before = sum(disk["virtual_size"] for disk in disks if disk["number"] < number)
    after = sum(disk["virtual_size"] for disk in disks if disk["number"] > number)
    return lambda done, total: progress(before + done, before + total + after)


def read_back(to: Systems, image: str, progress: Progress) -> dict[str, int]:
    """Read every page of the stored manifests and one chunk in sixteen, verified; raises DamagedError."""
    read = 0
    with step(to, image) as row, ThreadPoolExecutor(_READERS, "read-back") as pool:
        for disk in images.disks(to.catalog, row["id"]):
            with reading.open_disk(to, row, disk["number"]) as reader:
                for page in range(reader.pages):
                    refs = reader.refs(page)[::_READ_BACK]
                    read += sum(1 for _ in pool.map(reader.fetch, refs))
                    progress(page + 1, reader.pages)
    return {"chunks": read}


def activate(to: Systems, image: str) -> dict[str, str]:
    """The last write: the image becomes visible as active and lets go of its lease; the spool is removed."""
    with step(to, image) as row, to.catalog.transaction() as connection:
        uploads.renew_lease(connection, row["id"])
        images.move(connection, row["id"], "active", active_at=_now(connection))
        uploads.forget(connection, row["id"])
        images.record_event(connection, row["operation"], row["id"], "done")
        sidecar.write(to, connection, row["id"])
    shutil.rmtree(_spool(to, row), ignore_errors=True)
    return {"image": image, "status": "active"}


def _now(connection: Any) -> Any:
    return connection.execute("SELECT now() AS now").fetchone()["now"]


def describe(to: Systems, image: str) -> dict[str, Any]:
    """What there is to tell of an image at the end, as small JSON."""
    row = images.get(to.catalog, image)
    names = ("name", "status", "type", "source_format", "virtual_size", *_SIZES)
    digest = row["content_digest"]
    found = {name: row[name] for name in names}
    return {"image": image, **found, "key": row["key_name"] or "", "content_digest": digest.hex() if digest else ""}


def fail(to: Systems, image: str, error: DarkroomError) -> None:
    """Kill an image that cannot become active: reason recorded, data key and references dropped, name free again.

    Does nothing to an image that another process has gone on with.
    """
    row = images.get(to.catalog, image)
    if row["status"] not in lifecycle.UNFINISHED:
        return
    failure = {"code": error.code, "message": str(error)}
    with to.catalog.transaction() as connection:
        uploads.renew_lease(connection, row["id"])
        kill(connection, row, failure)
    remove_rest(to, row)


def kill(connection: Connection, row: Row, failure: dict[str, str]) -> None:
    """Make an unfinished image final, with the reason; its data key and references go, its name is free again."""
    images.move(connection, row["id"], "killed", failure=failure)
    uploads.forget(connection, row["id"])
    uploads.release(connection, row["id"])
    images.record_event(connection, row["operation"], row["id"], "failed", failure["message"])


def remove_rest(to: Systems, row: Row) -> None:
    """Remove what a killed image has outside of the catalog; its packs are the collector's."""
    for key in [key for key, _ in to.store.list(f"images/{row['id']}/")]:
        to.store.delete(key)
    shutil.rmtree(_spool(to, row), ignore_errors=True)
