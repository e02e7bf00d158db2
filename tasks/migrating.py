"""The steps of a batch migration."""

from dataclasses import asdict
from typing import Any

from prefect import get_run_logger, runtime, task
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment

from darkroom.catalog import batches
from darkroom.catalog.batches import Outcome
from darkroom.migration import batch as batch_of
from darkroom.migration import work
from tasks.policy import POLICY
from tasks.progress import reported
from tasks.systems import Blocks, opened

HELPER = "help-migration/Help migration"


@task(name="register table", **POLICY)
def register(source: str, report: str, retry_failed: bool, blocks: Blocks) -> str:
    """Read and check the table as a whole, and make its batch, or find it."""
    with opened(blocks) as systems:
        run = str(runtime.flow_run.id or "")
        return batch_of.register(systems, source, report, run=run, retry_failed=retry_failed)


@task(name="call helpers", **POLICY)
def call_helpers(batch: str, workers: int, concurrency: int, blocks: Blocks) -> int:
    """Ask the work pool for one run for each worker beside this one; they go on even should this run die."""
    named = {kind: name for kind, name in asdict(blocks).items() if name}
    request: dict[str, Any] = {"batch": batch, "concurrency": concurrency, "blocks": named}
    for number in range(2, workers + 1):
        run_deployment(
            HELPER, parameters={"request": request}, timeout=0, as_subflow=False, flow_run_name=f"{batch[:8]}-{number}"
        )
    return workers - 1


@task(name="import rows", **POLICY)
def import_rows(batch: str, concurrency: int, lead: bool, blocks: Blocks) -> dict[str, Any]:
    """Import row after row until none is left; a line in the log for each."""
    logger = get_run_logger()

    def done(outcome: Outcome, status: str) -> None:
        told = f"image {outcome.image}" if outcome.image else outcome.reason
        logger.log(30 if outcome.code else 20, "row %s %s: %s", outcome.number, status, told)

    with opened(blocks) as systems, reported("rows") as progress:
        return work.work(systems, batch, concurrency, progress, done, lead=lead)


def stop(flow: Any, flow_run: FlowRun, state: Any) -> None:
    """When the run that leads a batch is cancelled, begin no more rows, in any worker."""
    names = flow_run.parameters.get("request", {}).get("blocks", {})
    with opened(Blocks(**names)) as systems:
        batches.stop(systems.catalog, str(flow_run.id))
