"""Trust owner: what a project shares is accepted without being asked for."""

from typing import Any

from prefect import flow

from flows.parameters.projects import TrustOwner
from tasks import projects, summary


@flow(name="trust-owner", persist_result=False)
def trust_owner(request: TrustOwner) -> dict[str, Any]:
    """Accept from now on at once what an owner shares with the project, or no longer. The result is all such owners."""
    result = projects.trust(request.owner, request.trusted, request.blocks.names())
    summary.publish("trust", "Owners whose images are accepted at once", result)
    return result
