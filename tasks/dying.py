"""A run whose process died is asked for again by an automation (`deployments.automation`); here that ends.

A process that its work kills, such as by its need of memory, would else be started for ever.
"""

from datetime import timedelta

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.types._datetime import now

from darkroom.errors import DarkroomError

DIED = "its process died"
"""The message of the state in which a run is asked for again. Deaths are counted by it: a run is also started again
because `darkroom up` was stopped, or a person asked for it."""
_MOST = 5
_WITHIN = timedelta(days=1)


class RunDiedError(DarkroomError):
    """The process of the run died as often as it was started."""

    code = "run-died"
    what = "its process died again and again"
    default_remedy = "find out what kills it, such as a lack of memory in the kernel's log, and run the operation again"


def check_deaths(spared: int = 0) -> None:
    """Raise RunDiedError if the process of this run has died too often lately; outside of a run do nothing.

    `spared` deaths more are allowed to a step without which nothing could be given up in order.
    """
    context = FlowRunContext.get()
    run = context and context.flow_run
    if not run or run.run_count <= _MOST + spared:
        return
    with get_client(sync_client=True) as client:
        states = client.read_flow_run_states(run.id)
    deaths = sum(state.message == DIED and state.timestamp > now("UTC") - _WITHIN for state in states)
    if deaths >= _MOST + spared:
        raise RunDiedError(run.name, "", f"{deaths} deaths within a day")
