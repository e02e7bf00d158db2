"""The local key manager."""

import os
import subprocess
import sys

import pytest

from darkroom import keys
from darkroom.keys import KeyExistsError, KeyFileError, KeyMissingError, UnwrapError


def test_a_wrap_unwraps_under_the_same_key_and_context_only(key_manager):
    key_manager.create("silver")
    key, wrapped = key_manager.generate("gold", {"image": "1", "project": "p"})

    assert key_manager.unwrap("gold", wrapped, {"project": "p", "image": "1"}) == key
    assert key not in wrapped
    for name, context in [
        ("gold", {"image": "2", "project": "p"}),
        ("gold", {}),
        ("silver", {"image": "1", "project": "p"}),
    ]:
        with pytest.raises(UnwrapError):
            key_manager.unwrap(name, wrapped, context)
    for at in range(len(wrapped)):
        damaged = wrapped[:at] + bytes((wrapped[at] ^ 1,)) + wrapped[at + 1 :]
        with pytest.raises(UnwrapError):
            key_manager.unwrap("gold", damaged, {"image": "1", "project": "p"})


def test_missing_and_taken_keys_are_named(key_manager):
    with pytest.raises(KeyMissingError, match="silver"):
        key_manager.generate("silver", {})
    with pytest.raises(KeyExistsError):
        key_manager.create("gold")
    assert key_manager.names() == ["gold"]


def test_the_file_is_for_its_owner_alone(key_manager):
    assert os.stat(key_manager.url).st_mode & 0o777 == 0o600

    os.chmod(key_manager.url, 0o644)
    with pytest.raises(KeyFileError, match="chmod 600"):
        key_manager.check()


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"version": 2, "keys": {}}', '{"version": 1, "keys": {"a": "AA=="}}']
)
def test_a_file_that_is_no_key_file_is_named_and_not_touched(key_manager, content):
    with open(key_manager.url, "w") as file:
        file.write(content)

    with pytest.raises(KeyFileError):
        key_manager.create("silver")
    with open(key_manager.url) as file:
        assert file.read() == content


def test_many_processes_create_keys_at_once_and_none_is_lost(key_manager):
    code = "import sys; from darkroom import keys; keys.open_keys(sys.argv[1]).create(sys.argv[2])"
    children = [subprocess.Popen([sys.executable, "-c", code, key_manager.url, f"k{n}"]) for n in range(6)]

    assert [child.wait() for child in children] == [0] * 6
    assert key_manager.names() == ["gold", *(f"k{n}" for n in range(6))]


def test_unknown_key_managers_are_refused():
    with pytest.raises(keys.KeysUrlError):
        keys.open_keys("vault://host/secret-path")
