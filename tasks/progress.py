"""Progress of a step: an artifact in the Prefect UI, and whoever listens in this process."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

Listener = Callable[[str, int, int], None]
_INTERVAL = 2.0
_listeners: list[Listener] = []


def listen(listener: Listener) -> None:
    """Have `listener(step, done, total)` called in this process, from whichever thread does the work."""
    _listeners.append(listener)


@contextmanager
def reported(step: str) -> Iterator[Callable[[int, int], None]]:
    """A function to call with bytes done and in all; the artifact is made when a step takes longer than a moment."""
    artifact: UUID | None = None
    updated = time.monotonic()

    def update(done: int, total: int) -> None:
        nonlocal artifact, updated
        for listener in _listeners:
            listener(step, done, total)
        now = time.monotonic()
        if not total or now - updated < _INTERVAL:
            return
        updated = now
        share = 100.0 * done / total
        if artifact is None:
            made = create_progress_artifact(share, key=f"progress-{step}", description=f"{step}: bytes done")
            assert isinstance(made, UUID)
            artifact = made
        else:
            update_progress_artifact(artifact, share)

    yield update
    if artifact is not None:
        update_progress_artifact(artifact, 100.0)
