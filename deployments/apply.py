"""Make Darkroom known to a Prefect server: blocks, the work pool, and a deployment of each flow.

    PREFECT_API_URL=http://…/api python -m deployments.apply

`darkroom up` runs it. It can be run again at any time: what is there is brought up to date, and what a person changed
in the UI (a schedule that was paused, the limits of the pool) stays.
"""

import hashlib
import importlib
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml
from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate, WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyOptions
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound
from prefect.utilities.callables import parameter_schema
from prefect.workers.process import ProcessWorker

import blocks
from darkroom import choices, postgres, systems
from darkroom.choices import Choices
from darkroom.errors import DarkroomError
from darkroom.settings import Settings
from deployments import automation
from flows.parameters import offers

ROOT = Path(__file__).parent.parent
POOL = "darkroom"
DOCUMENT = "default"
AT_ONCE = 4


def main() -> int:
    """Make all of it."""
    settings = Settings()
    register_blocks(settings)
    create_pool()
    offered = known_names(settings)
    with get_client(sync_client=True) as client:
        found = {one.entrypoint: one for one in client.read_deployments()}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda entry: deploy(entry, found.get(entry["entrypoint"]), offered), declared()))
    automation.create()
    return 0


def declared() -> list[dict[str, Any]]:
    """The entries of `prefect.yaml`, of which `prefect deploy --all` would make the same, more slowly."""
    entries: list[dict[str, Any]] = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())["deployments"]
    return entries


def known_names(settings: Settings) -> Choices:
    """The names that forms offer: what the catalog of this environment knows, and the blocks of the server.

    An embedded catalog that does not run is not started for it. Where names cannot be had, forms take text alone.
    """
    with get_client(sync_client=True) as client:
        documents = client.read_block_documents(include_secrets=False)
    found: Choices = {}
    for document in documents:
        if document.name and document.block_type:
            found.setdefault(document.block_type.slug, []).append(document.name)
    if settings.catalog_url or postgres.status(settings.home / "catalog")["running"]:
        try:
            with systems.open_systems(settings) as to:
                found.update(choices.present(to))
        except DarkroomError as error:
            print(f"forms offer no names of the catalog: {error}", file=sys.stderr)
    return found


def deploy(entry: dict[str, Any], found: DeploymentResponse | None, offered: Choices) -> None:
    """Make a deployment, or bring the one that was found up to date; one that is so already is left alone.

    Its version is the digest of all that is declared, so without what its form offers, which changes by itself. Its new
    schedules are paused if a person has paused the old ones.
    """
    module, _, name = entry["entrypoint"].rpartition(".")
    flow = getattr(importlib.import_module(module), name)
    schema = parameter_schema(flow).model_dump_for_openapi()
    schema["properties"]["request"] |= {"title": entry["name"], "description": entry["description"]}
    version = hashlib.sha256(json.dumps([entry, schema], sort_keys=True).encode()).hexdigest()[:16]
    schema = offers.offer(schema, offered)
    if found and found.version == version:
        if found.parameter_openapi_schema != schema:
            with get_client(sync_client=True) as client:
                client.update_deployment(found.id, DeploymentUpdate(parameter_openapi_schema=schema))
        return
    paused = found and found.schedules and not any(schedule.active for schedule in found.schedules)
    crons = [CronSchedule(cron=one["cron"]) for one in entry.get("schedules", [])]
    limit = entry.get("concurrency_limit", {})
    with get_client(sync_client=True) as client:
        client.create_deployment(
            flow_id=client.create_flow_from_name(flow.name),
            name=entry["name"],
            version=version,
            description=entry["description"],
            tags=entry["tags"],
            entrypoint=entry["entrypoint"],
            work_pool_name=entry["work_pool"]["name"],
            job_variables=entry["work_pool"]["job_variables"],
            parameters=entry.get("parameters"),
            parameter_openapi_schema=schema,
            enforce_parameter_schema=True,
            schedules=[DeploymentScheduleCreate(schedule=cron, active=not paused) for cron in crons],
            concurrency_limit=limit.get("limit"),
            concurrency_options=ConcurrencyOptions(collision_strategy=limit["collision_strategy"]) if limit else None,
            pull_steps=[],
        )


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


if __name__ == "__main__":
    sys.exit(main())
