"""Check: read back and verify all that an image stands on; report what is damaged, repair nothing."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from darkroom import content, crypto, packs, reading
from darkroom.catalog import Row, images
from darkroom.content import ContentHasher
from darkroom.download import DiskReader
from darkroom.errors import DamagedError
from darkroom.manifest import PAGE_CHUNKS, ChunkRef
from darkroom.model import CHUNK_SIZE
from darkroom.systems import Systems

Progress = Callable[[int, int], None]
_THREADS = 4


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
    used: set[UUID] = set()
    digests = []
    number = 0
    for disk in images.disks(to.catalog, row["id"]):
        try:
            with reading.open_disk(to, row, disk["number"]) as reader:
                hasher = ContentHasher(reader.size)
                number += _check_chunks(reader, hasher, used, findings, progress)
                digests.append(hasher.digest())
        except DamagedError as error:
            findings.append(_finding(error))
    if not findings and content.digest_of_disks(digests) != bytes(row["content_digest"]):
        findings.append(Finding("content-digest", f"{row['id']}: the content digest in the catalog is another"))
    if row["own"]:  # the references of a shared image are its owner's to see
        findings.extend(_check_packs(to, row, used))
    return {
        "image": str(row["id"]),
        "name": row["name"],
        "chunks": number,
        "findings": [asdict(finding) for finding in findings],
    }


def checkable(to: Systems, reference: str = "") -> list[Row]:
    """The image that is named, or all own ones that should be readable."""
    if reference:
        row = images.find(to.catalog, reference)
        if row["status"] != "deactivated":
            reading.require_active(row)
        return [row]
    return [row for row in images.listed(to.catalog) if row["own"] and row["status"] in ("active", "deactivated")]


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


def _check_packs(to: Systems, row: Row, used: set[UUID]) -> list[Finding]:
    """Every pack that the manifest names must be referenced, stored, and listed by its own trailer."""
    query = """SELECT p.uuid, p.status, s.uuid AS scope FROM refs r JOIN packs p ON p.id = r.pack_id
        JOIN scopes s ON s.id = p.scope_id WHERE r.image_id = %s"""
    with to.catalog.transaction() as connection:
        known = {row["uuid"]: row for row in connection.execute(query, (row["id"],))}
    findings = []
    for pack in sorted(used):
        if pack not in known or known[pack]["status"] != "stored":
            findings.append(Finding("pack-unreferenced", f"pack {pack}: used, but the catalog does not hold it"))
            continue
        try:
            packs.read_trailer(to.store, known[pack]["scope"], pack)
        except DamagedError as error:
            findings.append(_finding(error))
    return findings


def _finding(error: DamagedError) -> Finding:
    return Finding(error.code, str(error))
