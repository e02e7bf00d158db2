"""The steps that only an import has, named as the design names them."""

from typing import Any

from prefect import task

from darkroom import importing
from darkroom.importing import ImportRequest
from tasks.policy import POLICY
from tasks.progress import reported
from tasks.systems import Blocks, opened


@task(name="register", **POLICY)
def register(request: ImportRequest, blocks: Blocks) -> dict[str, str]:
    """Make the image's row and take its lease, or find those of an attempt that was killed."""
    with opened(blocks) as systems:
        return importing.register(systems, request)


@task(name="validate", **POLICY)
def validate(image: str, blocks: Blocks) -> dict[str, Any]:
    """Refuse what is not safe, before QEMU sees it."""
    with opened(blocks) as systems, reported("validate") as progress:
        return importing.validate(systems, image, progress)


@task(name="checksum (publisher's digest)", **POLICY)
def verify_digest(image: str, blocks: Blocks) -> dict[str, str]:
    """Compare the file with its publisher's digest, beside the pass."""
    with opened(blocks) as systems, reported("checksum") as progress:
        return importing.verify_digest(systems, image, progress)


@task(name="convert", **POLICY)
def convert(image: str, blocks: Blocks) -> list[dict[str, Any]]:
    """Open each disk of the source as a raw view, confined."""
    with opened(blocks) as systems:
        return importing.probe(systems, image)


@task(name="upload", **POLICY)
def upload(image: str, blocks: Blocks) -> dict[str, Any]:
    """The pass: read, deduplicate, compress, seal, store; then the manifests."""
    with opened(blocks) as systems, reported("upload") as progress:
        return importing.upload_disk(systems, image, progress)
