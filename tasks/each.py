"""One step for each of many names: what fails for one of them does not stop the others."""

from collections.abc import Callable, Sequence
from typing import Any

from darkroom.errors import DarkroomError


def each(step: Callable[[str], dict[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """The result of `step` for each name, or {"project", "status": code of the error, "error": what it says}.

    If all fail, the first error is raised.
    """
    results: list[dict[str, Any]] = []
    errors: list[DarkroomError] = []
    for name in dict.fromkeys(names):
        try:
            results.append(step(name))
        except DarkroomError as error:
            errors.append(error)
            results.append({"project": name, "status": error.code, "error": str(error)})
    if errors and len(errors) == len(results):
        raise errors[0]
    return results
