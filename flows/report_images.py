"""Report: the list of images as a CSV file, and a picture of what they take in the store."""

from typing import Any

from prefect import flow

from flows.parameters.reporting import ReportImages
from tasks import reporting, summary


@flow(name="report-images", persist_result=False)
def report_images(request: ReportImages) -> dict[str, Any]:
    """Write the list of images as a CSV file, and draw what they take in the store."""
    blocks = request.blocks.names()
    result = reporting.report(request.target, request.columns, request.which(), request.all_projects, blocks)
    usage = reporting.draw_usage(request.all_projects, blocks)
    sizes = {f"{name}_size": usage[name] for name in ("stored", "unique", "deduplicated")}
    summary.publish("report", f"Report {result['target']}", {**result, **sizes})
    return result
