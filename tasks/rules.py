"""The steps of life by policy, and of checks."""

from dataclasses import asdict
from typing import Any

from prefect import task

from darkroom import check as checking
from darkroom import policy
from tasks.policy import POLICY
from tasks.progress import reported
from tasks.systems import Blocks, opened


@task(name="plan", **POLICY)
def plan(blocks: Blocks) -> dict[str, Any]:
    """What the rules of the project ask for now, and its rules."""
    with opened(blocks) as systems:
        steps = [asdict(step) for step in policy.plan(systems)]
        return {"steps": steps, "rules": asdict(policy.rules(systems)), "project": systems.settings.project}


@task(name="execute", **POLICY)
def execute(steps: list[dict[str, str]], blocks: Blocks) -> list[dict[str, Any]]:
    """Rotate, deprecate and delete what the plan says."""
    with opened(blocks) as systems:
        return policy.execute(systems, [policy.Step(**step) for step in steps])


@task(name="check", **POLICY)
def check(image: str, minutes: float, blocks: Blocks) -> list[dict[str, Any]]:
    """Read back and verify, the least lately checked images first."""
    with opened(blocks) as systems, reported("check") as progress:
        return checking.check_images(systems, image, 60.0 * minutes, lambda _name, done, total: progress(done, total))
