"""The same operation on many images: each has a result of its own, and none keeps another from its."""

from collections.abc import Callable, Iterable
from typing import Any

from darkroom.errors import DarkroomError

Result = dict[str, Any]
REFUSED = "refused"


class BatchError(DarkroomError):
    """Some of the images were refused the operation; it is done for the others. `results` tells of each."""

    code = "batch"
    what = "not all could be done"

    def __init__(self, results: list[Result]) -> None:
        refused = [result for result in results if result["outcome"] == REFUSED]
        super().__init__(f"{len(refused)} of {len(results)} images", "", refused[0]["message"])
        self.results = results

    def __reduce__(self) -> Any:
        return BatchError, (self.results,)


def each(references: Iterable[str], operation: Callable[[str], Result]) -> list[Result]:
    """Do `operation` for each image, and return a result for each, in order.

    A result names `image`, `name` and `outcome`; that of a refused one is `refused`, with `code` and `message`.
    Raises what may pass by itself, such as CatalogUnavailableError: then the whole is run again.
    """
    results = []
    for reference in dict.fromkeys(references):
        try:
            results.append(operation(reference))
        except DarkroomError as error:
            if error.retryable:
                raise
            told = {"code": error.code, "message": str(error), "exit_code": error.exit_code}
            results.append({"image": reference, "name": reference, "outcome": REFUSED, **told})
    return results


def settled(results: list[Result]) -> dict[str, Any]:
    """The results as the end of a flow; raises BatchError if any was refused."""
    if any(result["outcome"] == REFUSED for result in results):
        raise BatchError(results)
    return {"results": results}
