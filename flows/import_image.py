"""Import: a disk image file becomes an active image."""

from typing import Any

from prefect import flow

from darkroom.errors import ConflictError, DarkroomError
from flows.parameters.transfer import ImportImage
from tasks import importing, summary


@flow(name="import-image", persist_result=False)
def import_image(request: ImportImage) -> dict[str, Any]:
    """Import a disk image file. Running it again after any kill goes on where it stopped."""
    blocks = request.blocks.names()
    image = importing.register(request.request(), blocks)
    if image["status"] != "active":
        try:
            _bring(image["image"], request)
        except DarkroomError as error:
            # A conflict means that somebody else has gone on with the image: it is theirs.
            if not error.retryable and not isinstance(error, ConflictError):
                importing.fail(image["image"], error, blocks)
            raise
    result = importing.describe(image["image"], blocks)
    summary.publish("import", f"Image {result['name']}", result)
    return result


def _bring(image: str, request: ImportImage) -> None:
    """The steps between the row and the active image, in order."""
    blocks = request.blocks.names()
    importing.validate(image, blocks)
    digest = importing.verify_digest.submit(image, blocks) if request.digest else None
    importing.convert(image, blocks)
    importing.encrypt(image, blocks)
    importing.upload(image, blocks)
    if digest:
        digest.result()
    if not request.quick:
        importing.read_back(image, blocks)
    importing.activate(image, blocks)
