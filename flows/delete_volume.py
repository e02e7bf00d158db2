"""Delete a volume."""

from typing import Any

from prefect import flow

from flows.parameters.servers import DeleteVolume
from tasks import summary, volumes


@flow(name="delete-volume", persist_result=False)
def delete_volume(request: DeleteVolume) -> dict[str, Any]:
    """Remove a volume that no server has."""
    result = volumes.delete(request.volume, request.blocks.names())
    summary.publish("volume", f"Deleted {result['name']}", result)
    return result
