"""The systems of a run: from the blocks that it names, else from the environment."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

from prefect.blocks.core import Block
from prefect.context import FlowRunContext

from blocks.catalog import CatalogDatabase
from blocks.host import LibvirtHost
from blocks.keys import KeyManager
from blocks.project import Project
from blocks.store import ObjectStore
from darkroom import audit, systems
from darkroom.settings import Settings
from darkroom.systems import Systems
from tasks import dying
from tasks.ending import ends_when_told
from tasks.events import tell

B = TypeVar("B", bound=Block)


@dataclass(frozen=True, slots=True)
class Blocks:
    """Names of Prefect blocks; an empty one stands for what the environment says.

    `acting` is the name of a project to act as, in place of that of block and environment.
    """

    catalog: str = ""
    object_store: str = ""
    key_manager: str = ""
    project: str = ""
    acting: str = ""


@contextmanager
def opened(blocks: Blocks, *, operator: bool = False) -> Iterator[Systems]:
    """Open the systems for a step; for the operator's with the rows of all projects."""
    dying.check_deaths(spared=1)
    settings = Settings()
    if (context := FlowRunContext.get()) and context.flow:
        audit.operation.set(context.flow.name.removesuffix("-image").removesuffix("-images"))
    if blocks.project:
        project = _load(Project, blocks.project)
        settings = replace(settings, project=project.name or settings.project)
        settings = replace(settings, catalog_url=project.dsn.get_secret_value() or settings.catalog_url)
    settings = replace(settings, project=blocks.acting or settings.project)
    with (
        ends_when_told(),
        systems.open_systems(
            settings,
            object_store=_load(ObjectStore, blocks.object_store).open() if blocks.object_store else None,
            key_manager=_load(KeyManager, blocks.key_manager).open if blocks.key_manager else None,
            catalog_url=_load(CatalogDatabase, blocks.catalog).open() if blocks.catalog else "",
            operator=operator,
        ) as found,
    ):
        found.catalog.listeners.append(tell)
        yield found


def host_name(name: str, block: str) -> str:
    """The compute host that a form names, or the one of a block."""
    return name or (_load(LibvirtHost, block).open() if block else "")


def _load(kind: type[B], name: str) -> B:
    found = kind.load(name)
    assert isinstance(found, kind)
    return found
