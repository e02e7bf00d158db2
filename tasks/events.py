"""What the audit log of the catalog tells, told to Prefect too: as an event, and as a line in the log of the run.

Automations, and through them webhooks, hang on the events `darkroom.OPERATION.OUTCOME`, such as `darkroom.import.done`.
"""

from typing import Any

from prefect import get_run_logger
from prefect.context import TaskRunContext
from prefect.events import emit_event

from darkroom.catalog import Row


def tell(event: Row) -> None:
    """Tell of what has been committed. Work does not fail because it cannot be told; outside of a run nobody hears."""
    if not TaskRunContext.get():
        return
    name = f"{event['operation']} {event['outcome']}"
    image = str(event["image_id"]) if event["image_id"] else ""
    resource = f"darkroom.image.{image}" if image else "darkroom.catalog"
    payload: dict[str, Any] = {"image": image, "reason": event["reason"]}
    words = {"operation": event["operation"], "outcome": event["outcome"], "image": image}
    try:
        emit_event(f"darkroom.{name.replace(' ', '.')}", {"prefect.resource.id": resource}, payload=payload)
        reason = f": {event['reason']}" if event["reason"] else ""
        get_run_logger().info("%s %s%s", name, image, reason, extra=words)
    except Exception as error:
        get_run_logger().warning("an event cannot be told: %s", error)
