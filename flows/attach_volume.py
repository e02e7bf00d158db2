"""Attach a volume."""

from typing import Any

from prefect import flow

from flows.parameters.servers import AttachVolume
from tasks import summary, volumes


@flow(name="attach-volume", persist_result=False)
def attach_volume(request: AttachVolume) -> dict[str, Any]:
    """Give a volume to a server, while it runs or not."""
    result = volumes.attach(request.volume, request.server, request.blocks.names())
    summary.publish("volume", f"Volume {result['name']} at {result['server']}", result)
    return result
