"""Check: read back and verify all that an image stands on; report what is damaged, repair nothing."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from darkroom import content, crypto, packs, reading, sidecar
from darkroom.catalog import Row, images
from darkroom.content import ContentHasher
from darkroom.download import DiskReader
from darkroom.errors import DamagedError, DarkroomError
from darkroom.manifest import PAGE_CHUNKS, ChunkRef
from darkroom.model import CHUNK_SIZE
from darkroom.systems import Systems

Progress = Callable[[int, int], None]
_THREADS = 4


class FindingsError(DamagedError):
    """A check found something wrong; the findings are in the log and in the run's artifact."""

    code = "findings"
    what = "a check found something wrong"
    default_remedy = "see `darkroom check IMAGE`"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: the stable code of its error, and what it says."""

    code: str
    message: str


def check_image(to: Systems, row: Row, progress: Progress) -> dict[str, Any]:
    """Verify the manifests, every chunk, the references, the packs' trailers and the content digest of an image.

    Returns {"image", "name", "chunks", "findings"}; an empty list of findings means that all is well.
    """
    findings: list[Finding] = []
    digests = []
    number = 0
    for disk in images.disks(to.catalog, row["id"]):
        try:
            with reading.open_disk(to, row, disk["number"]) as reader:
                hasher = ContentHasher(reader.size)
                used: set[UUID] = set()
                number += _check_chunks(reader, hasher, used, findings, progress)
                digests.append(hasher.digest())
                if row["own"]:  # the references of a shared image are its owner's to see
                    findings.extend(_check_references(reader, used - _referenced(to, row).keys()))
        except DamagedError as error:
            findings.append(_finding(error))
    if not findings and content.digest_of_disks(digests) != bytes(row["content_digest"]):
        findings.append(Finding("content-digest", f"{row['id']}: the content digest in the catalog is another"))
    if row["own"]:
        findings.extend(_check_packs(to, row))
    _record(to, row, findings)
    return _result(row, number, findings)


def _result(row: Row, number: int, findings: list[Finding]) -> dict[str, Any]:
    return {
        "image": str(row["id"]),
        "name": row["name"],
        "chunks": number,
        "findings": [asdict(finding) for finding in findings],
    }


def check_images(to: Systems, reference: str, seconds: float, progress: Callable[[str, int, int], None]) -> list[Row]:
    """Check the image that is named; or all own ones, the least lately checked first, each once.

    Of all, no further one is begun when `seconds` have passed, and that one cannot be read, such as for want of its
    key, is a finding. Returns what `check_image` does of each; calls `progress` with the name of the image, too.
    """
    if reference:
        row = images.find(to.catalog, reference)
        if row["status"] != "deactivated":
            reading.require_active(row)
        return [check_image(to, row, partial(progress, row["name"]))]
    results: list[Row] = []
    deadline = time.monotonic() + seconds
    begun = _now(to)
    while time.monotonic() < deadline:
        row_or_none = _least_lately(to, begun, [UUID(result["image"]) for result in results if result["findings"]])
        if row_or_none is None:
            break
        results.append(_checked(to, row_or_none, progress))
    return results


def settled(results: list[Row]) -> dict[str, Any]:
    """The results as the end of a flow; raises FindingsError if there are findings."""
    damaged = [result for result in results if result["findings"]]
    if damaged:
        names = ", ".join(result["name"] for result in damaged[:10])
        raise FindingsError(
            names, "", f"{len(damaged)} of {len(results)} images; {damaged[0]['findings'][0]['message']}"
        )
    return {"images": len(results), "chunks": sum(result["chunks"] for result in results)}


def _checked(to: Systems, row: Row, progress: Callable[[str, int, int], None]) -> Row:
    try:
        return check_image(to, row, partial(progress, row["name"]))
    except DarkroomError as error:
        if error.retryable:
            raise
        findings = [Finding(error.code, str(error))]
        _record(to, row, findings)
        return _result(row, 0, findings)


def _now(to: Systems) -> datetime:
    with to.catalog.transaction() as connection:
        row = connection.execute("SELECT clock_timestamp() AS now").fetchone()
    assert row
    now: datetime = row["now"]
    return now


def _least_lately(to: Systems, before: datetime, other_than: list[UUID]) -> Row | None:
    """The own image whose last good check is the longest ago, and was `before`, or None."""
    query = """SELECT *, true AS own FROM images WHERE project_id = current_project()
        AND status IN ('active', 'deactivated') AND (checked_at IS NULL OR checked_at < %s) AND id <> ALL(%s)
        ORDER BY checked_at NULLS FIRST, id LIMIT 1"""
    with to.catalog.transaction() as connection:
        return connection.execute(query, (before, other_than)).fetchone()


def _record(to: Systems, row: Row, findings: list[Finding]) -> None:
    """Log the check, and when it found the image well: the owner's image, for only its owner may write on it."""
    with to.catalog.transaction() as connection:
        well = not findings
        if well and row["own"]:
            connection.execute("UPDATE images SET checked_at = clock_timestamp() WHERE id = %s", (row["id"],))
        told = "" if well else f"{len(findings)} findings, the first: {findings[0].message}"
        images.record_event(connection, "check", row["id"], "done" if well else "failed", told)
        if well and row["own"]:
            sidecar.write(to, connection, row["id"])


def _check_chunks(
    reader: DiskReader, hasher: ContentHasher, used: set[UUID], findings: list[Finding], progress: Progress
) -> int:
    """Verify the chunks of one disk; their digests go to `hasher`, their packs to `used`. Returns their number."""
    number = 0
    with ThreadPoolExecutor(_THREADS, "check") as pool:
        for page in range(reader.pages):
            refs = reader.refs(page)
            used.update(ref.pack for ref in refs)
            for ref, digest in zip(refs, pool.map(lambda ref: _digest(reader, ref), refs), strict=True):
                if isinstance(digest, Finding):
                    findings.append(digest)
                else:
                    hasher.add(ref.number, digest)
            number += len(refs)
            progress(min((page + 1) * PAGE_CHUNKS * CHUNK_SIZE, reader.size), reader.size)
    return number


def _digest(reader: DiskReader, ref: ChunkRef) -> bytes | Finding:
    try:
        return crypto.digest(reader.fetch(ref))
    except DamagedError as error:
        return Finding(error.code, f"offset {ref.number * CHUNK_SIZE}: {error}")


def _referenced(to: Systems, row: Row) -> dict[UUID, UUID]:
    """The stored packs that the image refers to, with their scopes."""
    query = """SELECT p.uuid, s.uuid AS scope FROM refs r JOIN packs p ON p.id = r.pack_id AND p.status = 'stored'
        JOIN scopes s ON s.id = p.scope_id WHERE r.image_id = %s"""
    with to.catalog.transaction() as connection:
        return {row["uuid"]: row["scope"] for row in connection.execute(query, (row["id"],))}


def _check_references(reader: DiskReader, unknown: set[UUID]) -> Iterator[Finding]:
    """Chunks of packs that the image does not refer to must have moved to packs that it does refer to."""
    lost: set[UUID] = set()
    for page in range(reader.pages) if unknown else ():
        lost.update(ref.pack for ref in reader.refs(page) if ref.pack in unknown and not reader.place(ref))
    for pack in sorted(lost):
        yield Finding("pack-unreferenced", f"pack {pack}: used, but the catalog does not hold it")


def _check_packs(to: Systems, row: Row) -> Iterator[Finding]:
    """Every pack that the image refers to must be listed by its own trailer."""
    for pack, scope in sorted(_referenced(to, row).items()):
        try:
            packs.read_trailer(to.store, scope, pack)
        except DamagedError as error:
            if pack in _referenced(to, row):  # else it was compacted just now
                yield _finding(error)


def _finding(error: DamagedError) -> Finding:
    return Finding(error.code, str(error))
