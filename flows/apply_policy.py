"""Policy: what projects want done with their images and keys as they age is done."""

from typing import Any

from prefect import flow

from darkroom import batch, check
from flows.parameters.policy import ApplyPolicy
from tasks import projects, rules, summary


@flow(name="apply-policy", persist_result=False)
def apply_policy(request: ApplyPolicy) -> dict[str, Any]:
    """Rotate, deprecate, delete and check what a project's rules ask for; protected images are left alone."""
    steps, results, checked = list[Any](), list[Any](), list[Any]()
    for blocks in projects.each(request.all_projects, request.blocks.names()):
        plan = rules.plan(blocks)
        summary.publish_rows("policy-plan", f"The plan for project {plan['project']}", plan["steps"])
        steps += plan["steps"]
        if not request.dry_run:
            done = rules.execute(plan["steps"], blocks)
            summary.publish_results("policy", f"What was done in project {plan['project']}", done)
            results += done
            minutes = plan["rules"]["check_minutes"]
            checked += rules.check("", minutes, blocks) if minutes else []
    if checked:
        summary.publish_checks(checked)
    check.settled(checked)
    return {**batch.settled(results), "steps": steps}
