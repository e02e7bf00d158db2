"""Boot proof: an image boots in a throw-away guest."""

from typing import Any

from prefect import flow

from flows.parameters.capture import ProveBoot
from tasks import proving, summary


@flow(name="prove-boot", persist_result=False)
def prove_boot(request: ProveBoot) -> dict[str, Any]:
    """Boot an image and keep what it showed: the serial port's last words, the screen, how long it took."""
    result = proving.prove(request.image, request.request(), request.blocks.names())
    summary.publish("boot-proof", "Boot proof", result)
    return result
