"""Detach a volume."""

from typing import Any

from prefect import flow

from flows.parameters.servers import DetachVolume
from tasks import summary, volumes


@flow(name="detach-volume", persist_result=False)
def detach_volume(request: DetachVolume) -> dict[str, Any]:
    """Take a volume from its server."""
    result = volumes.detach(request.volume, request.blocks.names())
    summary.publish("volume", f"Volume {result['name']}", result)
    return result
