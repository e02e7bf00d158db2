"""The local key manager: its file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from darkroom import systems
from darkroom.keys.local import KeyFileError
from darkroom.settings import Settings

ENTRY = {"enabled": True, "created_at": "2026-01-01T00:00:00+00:00", "current": "1", "versions": {"1": "AA=="}}


@pytest.fixture
def local():
    manager = systems.open_key_manager(Settings(project="default"))
    manager.create("gold")
    return manager


def test_the_file_is_for_its_owner_alone(local):
    assert os.stat(local.url).st_mode & 0o777 == 0o600

    os.chmod(local.url, 0o644)
    with pytest.raises(KeyFileError, match="chmod 600"):
        local.check()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[]",
        '{"version": 1, "keys": {}}',
        '{"version": 3, "projects": {}}',
        json.dumps({"version": 2, "projects": {"default": {"a": ENTRY}}}),
        json.dumps({"version": 2, "projects": {"default": {"a": {**ENTRY, "versions": {}}}}}),
    ],
)
def test_a_file_that_is_no_key_file_is_named_and_not_touched(local, content):
    Path(local.url).write_text(content)

    with pytest.raises(KeyFileError):
        local.create("silver")
    assert Path(local.url).read_text() == content


def test_a_file_that_cannot_be_replaced_is_named_and_stays(local):
    before = Path(local.url).read_text()
    lock = Path(local.url).with_suffix(".lock")
    lock.unlink()
    lock.mkdir()

    with pytest.raises(KeyFileError, match="change keys where"):
        local.create("silver")
    assert Path(local.url).read_text() == before


def test_many_processes_create_keys_at_once_and_none_is_lost(local):
    code = (
        "import sys; from darkroom import systems; from darkroom.settings import Settings\n"
        "systems.open_key_manager(Settings(project=sys.argv[1])).create(sys.argv[2])"
    )
    places = [(project, f"k{n}") for n in range(3) for project in ("default", "acme")]
    children = [subprocess.Popen([sys.executable, "-c", code, *place]) for place in places]

    assert [child.wait() for child in children] == [0] * 6
    assert [key.name for key in local.listed()] == ["gold", "k0", "k1", "k2"]
    acme = systems.open_key_manager(Settings(project="acme"))
    assert [key.name for key in acme.listed()] == ["k0", "k1", "k2"]


def test_the_old_version_is_not_in_the_file_after_a_rotation(local):
    def versions():
        content = json.loads(Path(local.url).read_text())
        return content["projects"]["default"]["gold"]["versions"]

    first = versions()["1"]
    local.begin_rotation("gold")
    local.end_rotation("gold")

    assert list(versions()) == ["2"]
    assert first not in Path(local.url).read_text()
