"""What people decide about images, by command and by flow: output, exit codes, forms."""

import json

import pytest
from prefect.artifacts import Artifact
from pydantic import ValidationError

from commands.main import main
from darkroom import batch
from flows.modify_images import modify_images
from flows.parameters.images import ModifyImages, TagImages
from tests import operations


@pytest.fixture
def darkroom(to, prefect_api, monkeypatch, capsys):
    """Run a command in this process, for Prefect takes seconds to import; its standard output and error."""
    monkeypatch.setenv("PREFECT_API_URL", prefect_api)

    def run(*arguments, code=0):
        assert main([str(argument) for argument in arguments]) == code
        return capsys.readouterr()

    return run


def show(darkroom, image):
    return json.loads(darkroom("show", image, "--json").out)


def test_an_image_is_modified_tagged_and_retired_from_the_command_line(darkroom, to):
    one, two = (operations.image_row(to, name) for name in ("one", "two"))

    done = darkroom("modify", "one", "two", "--min-ram", 512, "--protect", "on", "--set", "owner=web team=b")
    assert done.out.splitlines() == [one, two]
    assert show(darkroom, "two")["properties"] == {"min_ram": 512, "custom": {"owner": "web team=b"}}
    darkroom("modify", "one", "--name", "uno", "--min-ram", 0, "--unset", "owner", "--protect", "off", "--version", 2)
    shown = show(darkroom, "uno")
    assert (shown["properties"], shown["protected"], shown["version"]) == ({}, False, 3)
    assert "version-conflict" in darkroom("modify", "uno", "--description", "x", "--version", 2, code=5).err
    assert "memory-invalid" in darkroom("modify", "two", "--max-ram", 1, code=3).err
    assert darkroom("tag", "uno", "two", "team=web", "stage=").out.splitlines() == [one, two]
    darkroom("untag", "uno", "stage", "never")
    assert show(darkroom, "uno")["tags"] == {"team": "web"}
    darkroom("family", "uno", "numbers")
    assert show(darkroom, "numbers")["id"] == one
    darkroom("family", "two", "numbers")
    darkroom("deprecate", "uno", "--replaced-by", "numbers")
    assert (show(darkroom, "uno")["replaced_by"], show(darkroom, "numbers")["id"]) == (two, two)
    assert f"use image {two} instead" in darkroom("export", "uno", "/nowhere/out.raw", code=4).err
    darkroom("family", "two", "--none")
    assert "image-not-found" in darkroom("show", "numbers", code=4).err
    darkroom("deactivate", "uno")
    assert show(darkroom, "uno")["status"] == "deactivated"
    darkroom("activate", "uno")
    results = json.loads(darkroom("deprecate", "uno", "nowhere", "--undo", "--json", code=4).out)
    assert [result["outcome"] for result in results] == ["changed", "refused"]


def test_lists_reports_and_policies_from_the_command_line(darkroom, to, tmp_path):
    for number in range(3):
        tags = {"team": "web"} if number else {}
        active_at = f"2026-01-0{number + 1}"
        operations.image_row(to, f"web-{number}", tags, family="web", active_at=active_at)
    operations.image_row(to, "gone", status="deleted")

    def names(*options):
        return [row["name"] for row in json.loads(darkroom("list", "--json", *options).out)]

    assert names("--tag", "team=web", "--sort", "name") == ["web-1", "web-2"]
    assert names("--not-tag", "team", "--name", "web*") == ["web-0"]
    assert names("--status", "deleted") == ["gone"]
    assert names("--shared") == []
    page = darkroom("list", "--sort", "name", "--limit", 2)
    marker = page.err.split()[-1]
    assert names("--sort", "name", "--marker", marker) == ["web-2"]
    assert "page: " in darkroom("list", "--sort", "color", code=2).err
    target = tmp_path / "images.csv"
    assert darkroom("report", target, "--columns", "name", "--tag", "team=web").out == f"{target}\n"
    assert target.read_text(encoding="utf-8-sig").split() == ["Image", "Name", "web-2", "web-1"]
    assert "column: color" in darkroom("report", target, "--columns", "color", code=2).err
    assert "keep last        2 number" in darkroom("policy", "set", "--keep-last", 2).out
    assert "web-0: delete, number 3 of family web" in darkroom("policy", "apply", "--dry-run").out
    assert "web-0: deleted, number 3 of family web" in darkroom("policy", "apply").out
    assert json.loads(darkroom("policy", "show", "--json").out)["keep_last"] == 2
    assert names("--name", "web-0") == []
    assert "policy: " in darkroom("policy", "set", "--delete-after", -1, code=3).err


def test_a_flow_that_was_refused_for_some_images_has_failed_and_tells_which(prefect_api, to):
    operations.image_row(to, "one")
    state = modify_images(ModifyImages(images=["one", "nowhere"], min_ram=512), return_state=True)

    error = state.result(raise_on_failure=False)
    assert state.is_failed()
    assert isinstance(error, batch.BatchError)
    assert str(error).startswith("batch: 1 of 2 images: not all could be done; found image-not-found: nowhere")
    table = json.loads(Artifact.get("modify").data)
    assert [(row["image"], row["outcome"]) for row in table] == [("one", "changed"), ("nowhere", "refused")]


@pytest.mark.parametrize(
    ("form", "fields", "words"),
    [
        (ModifyImages, {"images": []}, "at least 1"),
        (ModifyImages, {"images": ["a", "b"], "name": "c"}, "for one image"),
        (ModifyImages, {"images": ["a", "b"], "version": 1}, "for one image"),
        (ModifyImages, {"images": ["a"], "min_ram": 1, "clear": ["min_ram"]}, "at once: min_ram"),
        (ModifyImages, {"images": ["a"], "set": {"k": ""}, "unset": ["k"]}, "at once: k"),
        (ModifyImages, {"images": ["a"], "set": {"status": "x"}}, "property-reserved"),
        (ModifyImages, {"images": ["a"], "family": "a b"}, "family-invalid"),
        (TagImages, {"images": ["a"], "tags": {"k": ""}, "remove": ["k"]}, "at once: k"),
    ],
)
def test_a_form_refuses_what_makes_no_sense(form, fields, words):
    with pytest.raises(ValidationError, match=words):
        form(**fields)


def test_the_smallest_form_changes_nothing():
    changes = ModifyImages(images=["a"]).changes()

    assert (changes.values, changes.set, changes.unset, changes.version) == ({}, {}, [], 0)
