"""Stop a server."""

from typing import Any

from prefect import flow

from flows.parameters.servers import StopServer
from tasks import servers, summary


@flow(name="stop-server", persist_result=False)
def stop_server(request: StopServer) -> dict[str, Any]:
    """Stop a server: its guest is asked first."""
    result = servers.stop(request.server, request.force, request.blocks.names())
    summary.publish("server", f"Server {result['name']}", result)
    return result
