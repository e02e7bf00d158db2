"""Migrate: the rows of a table become images."""

from typing import Any

from prefect import flow

from flows.parameters.migrating import MigrateImages
from tasks import migrating, summary


@flow(name="migrate-images", persist_result=False, on_cancellation=[migrating.stop])
def migrate_images(request: MigrateImages) -> dict[str, Any]:
    """Import all that a table names. The same table again goes on where it was left, and imports nothing twice."""
    blocks = request.blocks.names()
    batch = migrating.register(request.source, request.report, request.retry_failed, blocks)
    if request.workers > 1:
        migrating.call_helpers(batch, request.workers, request.concurrency, blocks)
    result = migrating.import_rows(batch, request.concurrency, lead=True, blocks=blocks)
    summary.publish("migrate", f"{result['done']} of {result['rows']} images", result)
    return result
