"""The steps of an import, named as the design names them."""

from typing import Any

from prefect import task

from darkroom import importing
from darkroom.errors import DarkroomError
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
def convert(image: str, blocks: Blocks) -> dict[str, Any]:
    """Open the source as a raw view of its disk, confined."""
    with opened(blocks) as systems:
        return importing.probe(systems, image)


@task(name="encrypt", **POLICY)
def encrypt(image: str, blocks: Blocks) -> dict[str, Any]:
    """Create the data key and wrap it."""
    with opened(blocks) as systems:
        return importing.create_data_key(systems, image)


@task(name="upload", **POLICY)
def upload(image: str, blocks: Blocks) -> dict[str, Any]:
    """The pass: read, deduplicate, compress, seal, store; then the manifest."""
    with opened(blocks) as systems, reported("upload") as progress:
        return importing.upload_disk(systems, image, progress)


@task(name="checksum (read back)", **POLICY)
def read_back(image: str, blocks: Blocks) -> dict[str, int]:
    """Read back and verify a sample of what was stored."""
    with opened(blocks) as systems, reported("read-back") as progress:
        return importing.read_back(systems, image, progress)


@task(name="register (active)", **POLICY)
def activate(image: str, blocks: Blocks) -> dict[str, str]:
    """The last write: the image becomes active."""
    with opened(blocks) as systems:
        return importing.activate(systems, image)


@task(name="fail", **POLICY)
def fail(image: str, error: DarkroomError, blocks: Blocks) -> None:
    """Kill an image that cannot become active, with the reason."""
    with opened(blocks) as systems:
        importing.fail(systems, image, error)


@task(name="describe", **POLICY)
def describe(image: str, blocks: Blocks) -> dict[str, Any]:
    """What the catalog says of the image."""
    with opened(blocks) as systems:
        return importing.describe(systems, image)
