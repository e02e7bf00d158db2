"""Start a server again."""

from typing import Any

from prefect import flow

from flows.parameters.servers import StartServer
from tasks import servers, summary


@flow(name="start-server", persist_result=False)
def start_server(request: StartServer) -> dict[str, Any]:
    """Start a server that is stopped; one that runs is left to run."""
    result = servers.start(request.server, request.blocks.names())
    summary.publish("server", f"Server {result['name']}", result)
    return result
