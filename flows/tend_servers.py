"""Tend: compute hosts have what they need."""

from typing import Any

from prefect import flow

from flows.parameters.servers import TendServers
from tasks import servers, summary


@flow(name="tend-servers", persist_result=False)
def tend_servers(request: TendServers) -> dict[str, Any]:
    """Have the keepers run where disks are not whole yet, and remove what was begun and given up."""
    result = servers.tend(request.all_projects, request.blocks.names())
    summary.publish("tended", "Tended", result)
    return result
