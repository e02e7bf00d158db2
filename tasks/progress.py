"""Progress of a step: an artifact in the Prefect UI, and whoever listens in this process."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact

Listener = Callable[[str, int, int], None]
_INTERVAL = 2.0
_TOLD = 10
"""Of which share, in percent, the log tells how much more is done: the page of a run shows its log as it grows."""
_listeners: list[Listener] = []


def listen(listener: Listener) -> None:
    """Have `listener(step, done, total)` called in this process, from whichever thread does the work."""
    _listeners.append(listener)


@contextmanager
def reported(step: str) -> Iterator[Callable[[int, int], None]]:
    """A function to call with bytes done and in all; the artifact is made when a step takes longer than a moment."""
    artifact: UUID | None = None
    updated, told = time.monotonic(), 0

    def update(done: int, total: int) -> None:
        nonlocal artifact, updated, told
        for listener in _listeners:
            listener(step, done, total)
        if total and time.monotonic() - updated >= _INTERVAL:
            artifact = _show(artifact, step, 100.0 * done / total)
            if 100 * done // total >= told + _TOLD:
                told = 100 * done // total
                get_run_logger().info("%s: %d %%", step, told)
            updated = time.monotonic()

    yield update
    if artifact is not None:
        _show(artifact, step, 100.0)


def _show(artifact: UUID | None, step: str, share: float) -> UUID | None:
    """Make or change the artifact. Work does not fail because its progress cannot be shown."""
    try:
        if artifact is None:
            made = create_progress_artifact(share, key=f"progress-{step}", description=f"{step}: bytes done")
            assert isinstance(made, UUID)
            return made
        update_progress_artifact(artifact, share)
    except Exception as error:
        get_run_logger().warning("the progress of %s cannot be shown: %s", step, error)
    return artifact
