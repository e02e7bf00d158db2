"""Capture: a server, running or stopped, becomes an image."""

from typing import Any

from prefect import flow

from flows.parameters.capture import CaptureServer
from tasks import capturing, creation, summary


def _undo(flow: Any, flow_run: Any, state: Any) -> None:
    form = CaptureServer.model_validate(flow_run.parameters["request"])
    capturing.cancelled(form.name, form.blocks.names())


@flow(name="capture-server", persist_result=False, on_cancellation=[_undo])
def capture_server(request: CaptureServer) -> dict[str, Any]:
    """Capture a server. Running it again after any kill finishes it, with the disks as they are then."""
    blocks = request.blocks.names()
    image = capturing.register(request.request(), blocks)
    if image["status"] != "active":
        try:
            with creation.killed_if_it_fails(image["image"], blocks):
                creation.encrypt(image["image"], blocks)
                capturing.take(image["image"], blocks)
                creation.read_back(image["image"], blocks)
                creation.activate(image["image"], blocks)
        finally:
            capturing.settle(image["image"], blocks)
    result = creation.describe(image["image"], blocks)
    summary.publish("capture", f"Image {result['name']}", result)
    return result
