"""Policy: what a project wants done with its images and keys as they age is done."""

from typing import Any

from prefect import flow

from darkroom import batch, check
from flows.parameters.policy import ApplyPolicy
from tasks import rules, summary


@flow(name="apply-policy", persist_result=False)
def apply_policy(request: ApplyPolicy) -> dict[str, Any]:
    """Rotate, deprecate, delete and check what the project's rules ask for; protected images are left alone."""
    blocks = request.blocks.names()
    plan = rules.plan(blocks)
    summary.publish_rows("policy-plan", f"The plan for project {plan['project']}", plan["steps"])
    if request.dry_run:
        return {"results": [], **plan}
    results = rules.execute(plan["steps"], blocks)
    summary.publish_results("policy", f"What was done in project {plan['project']}", results)
    if plan["rules"]["check_minutes"]:
        checked = rules.check("", plan["rules"]["check_minutes"], blocks)
        summary.publish_checks(checked)
        check.settled(checked)
    return {**batch.settled(results), **plan}
