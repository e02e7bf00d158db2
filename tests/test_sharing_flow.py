"""Sharing through its flows: a result for each project, and accounts from blocks."""

import pytest
from pydantic import SecretStr

from blocks.project import Project
from darkroom import audit, inbox, projects
from darkroom.catalog import Catalog, images
from darkroom.settings import Settings
from darkroom.systems import open_systems
from flows.answer_share import answer_share
from flows.parameters.base import SystemBlocks
from flows.parameters.sharing import AnswerShare, ShareImage, UnshareImage
from flows.share_image import share_image
from flows.unshare_image import unshare_image
from tests import operations
from tests.conftest import make_disk


@pytest.fixture
def member(to, catalog_url, prefect_api):
    """Blocks that act as the project `acme`, by an account of its own."""
    with Catalog(catalog_url, None) as operator:
        projects.create(operator, "acme")
        dsn = projects.credentials(operator, catalog_url, "acme")
    with open_systems(Settings(project="acme")) as acme:
        acme.keys.create("steel")
        inbox.move(acme.catalog, acme.keys, "steel")
    Project(dsn=SecretStr(dsn)).save("acme", overwrite=True)
    return SystemBlocks(project="acme")


def test_each_project_has_a_result_and_none_keeps_the_others(to, member, tmp_path):
    disk = make_disk(tmp_path / "disk.raw", size=1 << 20)
    image = operations.import_image(to, disk, key="gold")

    results = share_image(ShareImage(image="one", projects=["nobody", "acme"]))["projects"]
    assert [(row["project"], row["outcome"]) for row in results] == [
        ("nobody", "project-not-found"),
        ("acme", "pending"),
    ]
    assert answer_share(AnswerShare(image="one", blocks=member))["outcome"] == "accepted"
    with open_systems(Settings(project="acme")) as acme:
        assert operations.content(acme, image) == disk.read_bytes()

    state = share_image(ShareImage(image="one", projects=["third"], blocks=member), return_state=True)
    assert isinstance(state.result(raise_on_failure=False), images.NotOwnerError)
    with open_systems(Settings(project="acme")) as acme:
        told = audit.listed(acme.catalog, image)
    assert [(row["operation"], row["outcome"]) for row in told][:3] == [
        ("share", "refused"),
        ("read", "done"),
        ("accept", "done"),
    ]
    assert unshare_image(UnshareImage(image="one", projects=["acme"]))["projects"][0]["outcome"] == "unshared"
