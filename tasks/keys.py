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


@task(name="create-key", **POLICY)
def create(key: str, blocks: Blocks) -> dict[str, Any]:
    """Make a key."""
    with opened(blocks) as systems:
        keyring.create(systems, key)
        return {"key": key, "state": systems.keys.find(key).state}


@task(name="switch-key", **POLICY)
def set_enabled(key: str, enabled: bool, blocks: Blocks) -> dict[str, Any]:
    """Allow or forbid every use of a key."""
    with opened(blocks) as systems:
        keyring.set_enabled(systems, key, enabled)
        return {"key": key, "state": systems.keys.find(key).state}


@task(name="rotate", **POLICY)
def rotate(key: str, blocks: Blocks) -> dict[str, Any]:
    """Re-wrap all that is under a key by a new version of it."""
    with opened(blocks) as systems, reported("re-wrap") as progress:
        return keyring.rotate(systems, key, progress)
