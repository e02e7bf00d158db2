"""The steps that every way of making an image has."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect import task

from darkroom import creation
from darkroom.errors import ConflictError, DarkroomError
from tasks.dying import check_deaths
from tasks.policy import POLICY
from tasks.progress import reported
from tasks.systems import Blocks, opened


@task(name="encrypt", **POLICY)
def encrypt(image: str, blocks: Blocks) -> dict[str, Any]:
    """Create the data key and wrap it."""
    with opened(blocks) as systems:
        return creation.create_data_key(systems, image)


@task(name="checksum (read back)", **POLICY)
def read_back(image: str, blocks: Blocks) -> dict[str, int]:
    """Read back and verify a sample of what was stored."""
    with opened(blocks) as systems, reported("read-back") as progress:
        return creation.read_back(systems, image, progress)


@task(name="register (active)", **POLICY)
def activate(image: str, blocks: Blocks) -> dict[str, str]:
    """The last write: the image becomes active."""
    with opened(blocks) as systems:
        return creation.activate(systems, image)


@task(name="fail", **POLICY)
def fail(image: str, error: DarkroomError, blocks: Blocks) -> None:
    """Kill an image that cannot become active, with the reason."""
    with opened(blocks) as systems:
        creation.fail(systems, image, error)


@task(name="describe", **POLICY)
def describe(image: str, blocks: Blocks) -> dict[str, Any]:
    """What the catalog says of the image."""
    with opened(blocks) as systems:
        return creation.describe(systems, image)


@contextmanager
def killed_if_it_fails(image: str, blocks: Blocks) -> Iterator[None]:
    """Kill the image if the block ends by an error that does not pass by itself, with the reason.

    So it is killed, too, if the process of the run has died too often.
    """
    try:
        check_deaths()
        yield
    except DarkroomError as error:
        # A conflict means that somebody else has gone on with the image: it is theirs.
        if not error.retryable and not isinstance(error, ConflictError):
            fail(image, error, blocks)
        raise
