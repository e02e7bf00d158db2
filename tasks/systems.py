"""The systems of a run: from the blocks that it names, else from the environment."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from blocks.catalog import CatalogDatabase
from blocks.keys import KeyManager
from blocks.project import Project
from blocks.store import ObjectStore
from darkroom import systems
from darkroom.settings import Settings
from darkroom.systems import Systems


@dataclass(frozen=True, slots=True)
class Blocks:
    """Names of Prefect blocks; an empty one stands for what the environment says."""

    catalog: str = ""
    object_store: str = ""
    key_manager: str = ""
    project: str = ""


@contextmanager
def opened(blocks: Blocks) -> Iterator[Systems]:
    """Open the systems for a step."""
    settings = Settings()
    if blocks.project:
        settings = replace(settings, project=Project.load(blocks.project).name)
    with systems.open_systems(
        settings,
        object_store=ObjectStore.load(blocks.object_store).open() if blocks.object_store else None,
        key_manager=KeyManager.load(blocks.key_manager).open() if blocks.key_manager else None,
        catalog_url=CatalogDatabase.load(blocks.catalog).open() if blocks.catalog else "",
    ) as found:
        yield found
