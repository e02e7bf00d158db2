"""What an operator does in the UI with a project's keys, its inbox and its trust, as flows."""

import pytest
from pydantic import SecretStr

from blocks.project import Project
from darkroom import audit, projects, sharing
from darkroom.catalog import Catalog
from darkroom.keys import KeyDisabledError, KeyExistsError, KeyMissingError
from darkroom.settings import Settings
from darkroom.systems import open_systems
from flows.create_key import create_key
from flows.disable_key import disable_key
from flows.enable_key import enable_key
from flows.move_inbox import move_inbox
from flows.parameters.base import SystemBlocks
from flows.parameters.keys import CreateKey, SwitchKey
from flows.parameters.projects import MoveInbox, TrustOwner
from flows.trust_owner import trust_owner
from tests import operations
from tests.conftest import make_disk


@pytest.fixture
def blocks(to, catalog_url, prefect_api):
    """Blocks that act as the project `acme`, by an account of its own."""
    with Catalog(catalog_url, None) as operator:
        projects.create(operator, "acme")
        dsn = projects.credentials(operator, catalog_url, "acme")
    Project(dsn=SecretStr(dsn)).save("acme", overwrite=True)
    return SystemBlocks(project="acme")


def failed(flow, form):
    return flow(form, return_state=True).result(raise_on_failure=False)


def test_a_project_gets_its_keys_and_receives_what_an_owner_shares(to, blocks, tmp_path):
    assert create_key(CreateKey(key="steel", blocks=blocks)) == {"key": "steel", "state": "enabled"}
    assert isinstance(failed(create_key, CreateKey(key="steel", blocks=blocks)), KeyExistsError)
    assert disable_key(SwitchKey(key="steel", blocks=blocks))["state"] == "disabled"
    assert isinstance(failed(move_inbox, MoveInbox(key="steel", blocks=blocks)), KeyDisabledError)
    assert isinstance(failed(enable_key, SwitchKey(key="gold", blocks=blocks)), KeyMissingError)
    assert enable_key(SwitchKey(key="steel", blocks=blocks))["state"] == "enabled"
    moved = move_inbox(MoveInbox(key="steel", blocks=blocks))
    assert moved == {"project": "acme", "key": "steel", "renewed": False}
    assert trust_owner(TrustOwner(owner="default", blocks=blocks))["trusted"] == ["default"]

    disk = make_disk(tmp_path / "disk.raw", size=1 << 20)
    image = operations.import_image(to, disk, key="gold")
    assert sharing.share(to, image, "acme")["outcome"] == "accepted"
    assert trust_owner(TrustOwner(owner="default", trusted=False, blocks=blocks))["trusted"] == []

    with open_systems(Settings(project="acme")) as acme:
        assert operations.content(acme, image) == disk.read_bytes()
        told = [(row["operation"], row["outcome"], row["reason"]) for row in audit.listed(acme.catalog)]
    done = [(operation, reason) for operation, outcome, reason in reversed(told) if outcome == "done"]
    assert [one for one in done if one[0] not in ("create-project", "credentials", "accept", "read")] == [
        ("create-key", "steel"),
        ("disable-key", "steel"),
        ("enable-key", "steel"),
        ("move-inbox", "steel"),
        ("trust", "default"),
        ("distrust", "default"),
    ]
    assert {operation for operation, outcome, _ in told if outcome == "refused"} >= {"create-key", "move-inbox"}
