"""The steps that concern keys. Names of keys pass between tasks; keys do not."""

from typing import Any

from prefect import task

from darkroom import keyring, rekeying
from tasks.policy import POLICY
from tasks.progress import reported
from tasks.systems import Blocks, opened


@task(name="re-key", **POLICY)
def rekey(image: str, key: str, blocks: Blocks) -> dict[str, Any]:
    """Wrap the data key under another key."""
    with opened(blocks) as systems:
        return rekeying.rekey(systems, image, key)


@task(name="rotate", **POLICY)
def rotate(key: str, blocks: Blocks) -> dict[str, Any]:
    """Re-wrap all that is under a key by a new version of it."""
    with opened(blocks) as systems, reported("re-wrap") as progress:
        return keyring.rotate(systems, key, progress)
