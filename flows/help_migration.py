"""Help: one more worker shares in a migration that is under way."""

from typing import Any

from prefect import flow

from flows.parameters.migrating import HelpMigration
from tasks import migrating


@flow(name="help-migration", persist_result=False)
def help_migration(request: HelpMigration) -> dict[str, Any]:
    """Import rows of a batch beside its other workers; takes over those of a worker that died."""
    return migrating.import_rows(request.batch, request.concurrency, lead=False, blocks=request.blocks.names())
