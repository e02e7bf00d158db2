"""Collect: what nothing refers to is freed, and packs that are mostly dead are compacted."""

from typing import Any

from prefect import flow

from flows.parameters.maintenance import CollectGarbage
from tasks import maintenance, summary


@flow(name="collect-garbage", persist_result=False)
def collect_garbage(request: CollectGarbage) -> dict[str, Any]:
    """Free what nothing refers to in all projects, or only tell it; safe beside imports and everything else."""
    result = maintenance.collect(request.dry_run, request.blocks.names())
    summary.publish("collect", "Would be collected" if request.dry_run else "Collected", result)
    return result
