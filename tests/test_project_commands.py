"""The commands of projects, quotas, accounts and shares, as far as they start no flow."""

import json

import pytest

from commands.main import main
from darkroom import sharing
from darkroom.catalog import Catalog
from darkroom.settings import Settings
from darkroom.systems import open_systems
from tests import operations
from tests.conftest import make_disk


@pytest.fixture
def run(to, capsys, monkeypatch):
    """Run a command here; its exit code, and what it printed on either stream."""
    monkeypatch.setenv("DARKROOM_PROJECT", "default")

    def call(*arguments):
        code = main(list(arguments))
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def test_quotas_are_set_shown_and_lifted(run):
    assert run("project", "create", "acme")[:2] == (0, "acme\n")

    code, printed, _ = run("project", "quota", "acme", "--stored", "10GiB", "--images", "5", "--json")
    assert code == 0
    shown = json.loads(printed)
    assert shown["stored_size"] == {"use": 0, "quota": 10 << 30}
    assert shown["images"] == {"use": 0, "quota": 5}
    assert shown["operations"] == {"use": 0, "quota": None}
    assert json.loads(run("project", "quota", "acme", "--images", "none", "--json")[1])["images"]["quota"] is None
    assert "10 GiB" in run("project", "quota", "--project", "acme")[1]
    assert run("project", "quota", "--images", "5")[0] == 3
    assert run("project", "quota", "nowhere")[0] == 4


@pytest.mark.parametrize("size", ["10 apples", "-1", "GiB", "1.5GiB"])
def test_a_size_that_is_none_is_a_usage_error(run, size):
    with pytest.raises(SystemExit) as caught:
        run("project", "quota", "default", f"--stored={size}")
    assert caught.value.code == 2


def test_an_account_works_and_its_password_is_on_standard_output_alone(run):
    code, dsn, words = run("project", "credentials", "default")

    assert (code, words) == (0, "")
    with Catalog(dsn.strip(), "") as catalog:
        assert catalog.project == "default"
    for wrong in (("credentials",), ("credentials", "default", "--operator"), ("credentials", "nowhere")):
        assert run("project", *wrong)[0] in (3, 4)


def test_shares_are_listed_on_both_sides(run, to, tmp_path):
    run("project", "create", "acme")
    run("key", "create", "steel", "--project", "acme")
    assert run("project", "inbox", "--key", "steel", "--project", "acme")[:2] == (0, "steel\n")
    assert run("project", "inbox", "--key", "missing", "--project", "acme")[0] == 4
    assert run("project", "auto-accept", "default", "--project", "acme")[1] == "default\n"
    assert run("project", "auto-accept", "default", "--stop", "--project", "acme")[1] == ""
    image = operations.import_image(to, make_disk(tmp_path / "disk.raw", size=1 << 20), key="gold")
    sharing.share(to, "one", "acme")

    [mine] = json.loads(run("shares", "--json", "--project", "default")[1])
    assert (mine["image_id"], mine["member"], mine["status"], mine["answered_at"]) == (image, "acme", "pending", None)
    [theirs] = json.loads(run("shares", "--incoming", "--json", "--project", "acme")[1])
    assert (theirs["image_id"], theirs["owner"], theirs["encrypted"]) == (image, "default", True)
    assert image in run("shares", "--incoming")[1]
    assert run("shares", "--project", "default")[1].splitlines()[1].split()[:4] == [image, "one", "acme", "pending"]


def test_a_list_tells_who_owns_what_is_shared_and_of_own_images_nothing(run, to, tmp_path):
    run("project", "create", "acme")
    image = operations.import_image(to, make_disk(tmp_path / "disk.raw", size=1 << 20), name="web-1")
    sharing.share(to, image, "acme")
    with open_systems(Settings(project="acme")) as acme:
        sharing.accept(acme, image)
        operations.image_row(acme, "own")

    header, *lines = run("list", "--project", "acme", "--sort", "name")[1].splitlines()
    assert [line.split()[-1] for line in (header, *lines)] == ["OWNER", "-", "default"]
    assert {row["name"]: row["owner"] for row in json.loads(run("list", "--json", "--project", "acme")[1])} == {
        "own": None,
        "web-1": "default",
    }
    assert json.loads(run("show", "web-1", "--json", "--project", "acme")[1])["owner"] == "default"
    for arguments in (("--project", "default"), ("--project", "acme", "--own")):
        assert "OWNER" not in run("list", *arguments)[1]
    assert run("list", "--project", "default", "--shared")[1].split()[-1] == "OWNER"
