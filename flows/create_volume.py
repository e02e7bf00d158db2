"""Create a volume: a data disk over an image, to be attached at once."""

from typing import Any

from prefect import flow

from darkroom.errors import ConflictError, DarkroomError
from flows.parameters.servers import CreateVolume
from tasks import summary, volumes


def _undo(flow: Any, flow_run: Any, state: Any) -> None:
    form = CreateVolume.model_validate(flow_run.parameters["request"])
    volumes.cancelled(form.name, form.blocks.names())


@flow(name="create-volume", persist_result=False, on_cancellation=[_undo])
def create_volume(request: CreateVolume) -> dict[str, Any]:
    """Make a volume from an image. Running it again after any kill goes on where it stopped."""
    blocks = request.blocks.names()
    volume = volumes.register(request.request(), blocks)
    try:
        result = volumes.provide(volume["volume"], request.full_copy, blocks)
    except DarkroomError as error:
        # A conflict means that somebody else has gone on with it: it is theirs.
        if not error.retryable and not isinstance(error, ConflictError):
            volumes.fail(volume["volume"], str(error), blocks)
        raise
    if request.attach:
        result = volumes.attach(volume["volume"], request.attach, blocks)
    summary.publish("volume", f"Volume {result['name']}", result)
    return result
