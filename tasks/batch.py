"""A batch: the same step for many images, with a result for each."""

from collections.abc import Callable
from typing import Any

from darkroom.errors import DarkroomError
from tasks.systems import Blocks


def each(step: Callable[[str, Blocks], dict[str, Any]], images: list[str], blocks: Blocks) -> list[dict[str, Any]]:
    """Run the step for each image; where it is refused, its result is the code of the error and its message.

    A single image is no batch: its error is raised.
    """
    if len(images) == 1:
        return [step(images[0], blocks)]
    return [_result(step, image, blocks) for image in images]


def _result(step: Callable[[str, Blocks], dict[str, Any]], image: str, blocks: Blocks) -> dict[str, Any]:
    try:
        return step(image, blocks)
    except DarkroomError as error:
        return {"image": image, "name": image, "outcome": error.code, "message": str(error)}
