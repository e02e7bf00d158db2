"""Rebuild: a catalog that was lost comes back from the store and the key manager."""

from typing import Any

from prefect import flow

from flows.parameters.maintenance import RebuildCatalog
from tasks import maintenance, summary


@flow(name="rebuild-catalog", persist_result=False)
def rebuild_catalog(request: RebuildCatalog) -> dict[str, Any]:
    """Add to the catalog all that the store has and it does not; safe to run again at any time."""
    result = maintenance.rebuild(request.blocks.names())
    summary.publish("rebuild", "Rebuilt", result)
    return result
