"""Make Darkroom known to a Prefect server: blocks, the work pool, and a deployment of each flow.

    PREFECT_API_URL=http://…/api python -m deployments.apply

`darkroom up` runs it. It can be run again at any time: what is there is brought up to date, and what a person changed
in the UI (a schedule that was paused, the limits of the pool) stays.
"""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events import AutomationCore, EventTrigger
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import Posture
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker

import blocks
from darkroom.settings import Settings

ROOT = Path(__file__).parent.parent
POOL = "darkroom"
DOCUMENT = "default"
AUTOMATION = "darkroom: runs whose process died are asked for again"
UNHEARD = timedelta(seconds=90)


def main() -> int:
    """Make all of it; the exit code is that of `prefect deploy`."""
    register_blocks(Settings())
    create_pool()
    paused = paused_schedules()
    deploy = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file"]
    code = subprocess.run([*deploy, "deployments/prefect.yaml"], cwd=ROOT, check=False).returncode
    pause(paused)
    create_automation()
    return code


def register_blocks(settings: Settings) -> None:
    """Register the block types, and save a document `default` of each that holds no secret.

    There is none of the catalog, for its DSN holds a password, and whoever may use Prefect's API may read all that
    blocks hold. Runs that name no block take what the worker's environment says.
    """
    for name in blocks.__all__:
        kind: type[Block] = getattr(blocks, name)
        kind.register_type_and_schema()
    documents: list[Block] = [
        blocks.ObjectStore(
            url=settings.store_url or str(settings.home / "store"), endpoint_url=settings.s3_endpoint_url
        ),
        blocks.KeyManager(
            url=settings.keys_url or str(settings.home / "keys.json"), endpoint_url=settings.kms_endpoint_url
        ),
        blocks.Project(name=settings.project),
    ]
    for document in documents:
        document.save(DOCUMENT, overwrite=True)


def create_pool() -> None:
    """Create the work pool, whose workers run each flow in a process of its own, unless it is there."""
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(POOL)
        except ObjectNotFound:
            template = ProcessWorker.get_default_base_job_template()
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))


def create_automation() -> None:
    """Have a run asked for again whose process is not heard of any more, unless such an automation is there.

    Prefect would leave it Running for ever. That it may run still, unheard, does no harm: the catalog's leases tell.
    """
    heard = EventTrigger(
        posture=Posture.Proactive,
        after={"prefect.flow-run.heartbeat"},
        expect={"prefect.flow-run.*"},
        for_each={"prefect.resource.id"},
        threshold=1,
        within=UNHEARD,
    )
    again = ChangeFlowRunState(state=StateType.SCHEDULED, name="AwaitingRetry", message="its process died", force=True)
    with get_client(sync_client=True) as client:
        if not client.read_automations_by_name(AUTOMATION):
            client.create_automation(AutomationCore(name=AUTOMATION, trigger=heard, actions=[again]))


def paused_schedules() -> set[UUID]:
    """The deployments whose schedules a person has paused: deploying makes new ones, which are active."""
    with get_client(sync_client=True) as client:
        found = client.read_deployments()
    return {one.id for one in found if one.schedules and not any(schedule.active for schedule in one.schedules)}


def pause(deployments: set[UUID]) -> None:
    """Pause the schedules of these deployments."""
    with get_client(sync_client=True) as client:
        for deployment in deployments:
            for schedule in client.read_deployment_schedules(deployment):
                client.update_deployment_schedule(deployment, schedule.id, active=False)


if __name__ == "__main__":
    sys.exit(main())
