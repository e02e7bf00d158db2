"""A batch: the same step for many images or projects, with a result for each."""

from collections.abc import Callable
from typing import Any

from darkroom.errors import DarkroomError
from tasks.systems import Blocks


def each(
    step: Callable[[str, Blocks], dict[str, Any]], names: list[str], blocks: Blocks, kind: str = "image"
) -> list[dict[str, Any]]:
    """Run the step for each name; where it is refused, its result is the code of the error and its message.

    What may pass by itself, such as a catalog that is down, is no refusal: it is raised, once the step has been tried
    as often as its policy says; then the whole is run again. A single one is no batch: its error is raised. `kind` is
    what the names name, in such a result.
    """
    if len(names) == 1:
        return [step(names[0], blocks)]
    return [_result(step, name, blocks, kind) for name in names]


def _result(step: Callable[[str, Blocks], dict[str, Any]], name: str, blocks: Blocks, kind: str) -> dict[str, Any]:
    try:
        return step(name, blocks)
    except DarkroomError as error:
        if error.retryable:
            raise
        return {kind: name, "name": name, "outcome": error.code, "message": str(error)}
