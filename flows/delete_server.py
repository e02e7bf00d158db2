"""Delete a server."""

from typing import Any

from prefect import flow

from flows.parameters.servers import DeleteServer
from tasks import servers, summary


@flow(name="delete-server", persist_result=False)
def delete_server(request: DeleteServer) -> dict[str, Any]:
    """Remove a server and its disks, at whatever point it is."""
    result = servers.delete(request.server, request.blocks.names())
    summary.publish("server", f"Deleted {result['name']}", result)
    return result
