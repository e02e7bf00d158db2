"""Import: a disk image file becomes an active image."""

from typing import Any

from prefect import flow

from darkroom.proving import ProofRequest
from flows.parameters.transfer import ImportImage
from tasks import creation, importing, proving, summary


@flow(name="import-image", persist_result=False)
def import_image(request: ImportImage) -> dict[str, Any]:
    """Import a disk image file. Running it again after any kill goes on where it stopped."""
    blocks = request.blocks.names()
    if request.prove_boot:
        proving.find_host(request.host, blocks)
    image = importing.register(request.request(), blocks)
    if image["status"] != "active":
        with creation.killed_if_it_fails(image["image"], blocks):
            _bring(image["image"], request)
    result = creation.describe(image["image"], blocks)
    summary.publish("import", f"Image {result['name']}", result)
    return result


def _bring(image: str, request: ImportImage) -> None:
    """The steps between the row and the active image, in order."""
    blocks = request.blocks.names()
    importing.validate(image, blocks)
    digest = importing.verify_digest.submit(image, blocks) if request.digest else None
    importing.convert(image, blocks)
    creation.encrypt(image, blocks)
    importing.upload(image, blocks)
    if digest:
        digest.result()
    if not request.quick:
        creation.read_back(image, blocks)
    if request.prove_boot:
        proving.prove(image, ProofRequest(request.host), blocks)
    creation.activate(image, blocks)
