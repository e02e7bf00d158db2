"""Create a server: it runs on overlays over the image at once."""

from typing import Any

from prefect import flow

from darkroom.errors import ConflictError, DarkroomError
from flows.parameters.servers import CreateServer
from tasks import servers, summary


def _undo(flow: Any, flow_run: Any, state: Any) -> None:
    form = CreateServer.model_validate(flow_run.parameters["request"])
    servers.cancelled(form.name, form.blocks.names())


@flow(name="create-server", persist_result=False, on_cancellation=[_undo])
def create_server(request: CreateServer) -> dict[str, Any]:
    """Start a server from an image. Running it again after any kill goes on where it stopped."""
    blocks, wanted = request.blocks.names(), request.request()
    server = servers.register(wanted, blocks)
    try:
        if server["status"] == "creating":
            servers.provide(server["server"], wanted, blocks)
        result = servers.boot(server["server"], blocks)
    except DarkroomError as error:
        # A conflict means that somebody else has gone on with it: it is theirs.
        if not error.retryable and not isinstance(error, ConflictError):
            servers.fail(server["server"], str(error), blocks)
        raise
    summary.publish("server", f"Server {result['name']}", result)
    return result
