"""Move inbox: under which key a project receives what others share."""

from typing import Any

from prefect import flow

from flows.parameters.projects import MoveInbox
from tasks import projects, summary


@flow(name="move-inbox", persist_result=False)
def move_inbox(request: MoveInbox) -> dict[str, Any]:
    """Put the project's inbox under a key; makes it if there is none."""
    result = projects.move_inbox(request.key, request.renew, request.blocks.names())
    summary.publish("inbox", f"The inbox is under key {result['key']}", result)
    return result
