"""The automations by which a run goes on whose process died, on this worker or another.

Prefect would leave such a run Running for ever, or Crashed, which its worker says of it if that lives. First a run of
which nothing is heard becomes Unheard; if it lives, it is heard again soon, for each run tells each half minute that it
does. One that stays unheard is asked for again. In one step each run would be asked for again beside itself, when the
server was away for longer than the silence: it reckons the silence from what it heard before.
"""

from datetime import timedelta

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.events import AutomationCore, CompoundTrigger, EventTrigger
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import Posture

from tasks.dying import DIED

_UNHEARD = "Unheard"
_BEGUN = ("Running", "Retrying", "heartbeat")
_ENDED = ("Completed", "Failed", "TimedOut", "Cancelling", "Cancelled", "Paused", "Suspended")
_ASKED = ("Scheduled", "AwaitingRetry", "Pending", "Submitting")
_HEARD = _BEGUN + _ENDED + _ASKED
"""What tells that a run needs nobody's help. Crashed does not: so ends one that its worker ends, too."""


def create() -> None:
    """Make the automations, or bring those that are there up to date; one that a person has disabled stays so."""
    with get_client(sync_client=True) as client:
        for wanted in automations():
            _create(client, wanted)


def automations() -> list[AutomationCore]:
    """Both of them.

    From the last word of a run until it is asked for again it takes longer than the lease of its image lasts, so that
    whoever goes on with it finds it free; and longer than its worker takes to be done with it.
    """
    unheard = _silence(timedelta(seconds=45), after=_BEGUN, answers=_HEARD)
    lost = _silence(timedelta(seconds=60), after=(_UNHEARD,), answers=_HEARD)
    not_begun = _silence(timedelta(minutes=5), after=("Pending", "Submitting"), answers=("*",))
    return [
        AutomationCore(
            name="darkroom: runs of which nothing is heard",
            trigger=unheard,
            actions=[
                ChangeFlowRunState(state=StateType.RUNNING, name=_UNHEARD, message="nothing is heard", force=True)
            ],
        ),
        AutomationCore(
            name="darkroom: runs whose process died are asked for again",
            trigger=CompoundTrigger(require="any", triggers=[lost, not_begun]),
            actions=[ChangeFlowRunState(state=StateType.SCHEDULED, name="AwaitingRetry", message=DIED, force=True)],
        ),
    ]


def _silence(within: timedelta, after: tuple[str, ...], answers: tuple[str, ...]) -> EventTrigger:
    return EventTrigger(
        posture=Posture.Proactive,
        after={f"prefect.flow-run.{word}" for word in after},
        expect={f"prefect.flow-run.{word}" for word in answers},
        match_related={"prefect.resource.role": "deployment"},  # what runs elsewhere, no worker could go on with
        for_each={"prefect.resource.id"},
        threshold=1,
        within=within,
    )


def _create(client: SyncPrefectClient, wanted: AutomationCore) -> None:
    for found in client.read_automations_by_name(wanted.name):
        if _rules(found) == _rules(wanted):
            return
        client.delete_automation(found.id)
        wanted = wanted.model_copy(update={"enabled": found.enabled})
    client.create_automation(wanted)


def _rules(automation: AutomationCore) -> dict[str, object]:
    return automation.model_dump(include={"trigger", "actions"})
