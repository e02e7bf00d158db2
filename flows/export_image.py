"""Export: an image goes out as a file of any format."""

from typing import Any

from prefect import flow

from flows.parameters.transfer import ExportImage
from tasks import exporting, summary


@flow(name="export-image", persist_result=False)
def export_image(request: ExportImage) -> dict[str, Any]:
    """Write an image to a file or an object, with its SHA-256 beside it."""
    result = exporting.export(request.image, request.target, request.format, request.blocks.names())
    summary.publish("export", f"Exported to {result['target']}", result)
    return result
