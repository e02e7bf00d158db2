"""How tasks are run: nothing is cached, and only what may pass by itself is tried again."""

from typing import Any

from prefect.cache_policies import NO_CACHE

from darkroom.errors import DarkroomError


def may_pass(_task: Any, _run: Any, state: Any) -> bool:
    """Whether the error of a failed task is one that can pass by itself, such as a store that is down."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, DarkroomError) and error.retryable


POLICY: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "persist_result": False,
    "retries": 5,
    "retry_delay_seconds": [1, 2, 4, 8, 15],
    "retry_condition_fn": may_pass,
}
"""Every step can be run again: it asks the catalog how far the image is. Tries span half a minute."""
