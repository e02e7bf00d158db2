"""What every key manager does: the local one, and AWS KMS over HTTP."""

import dataclasses

import pytest

from darkroom import crypto, keys, systems
from darkroom.keys import KeyDisabledError, KeyExistsError, KeyMissingError, UnwrapError
from darkroom.settings import Settings

CONTEXT = {"purpose": "test", "project": "p", "image": "1"}


def opened(project="default"):
    return systems.open_key_manager(dataclasses.replace(Settings(), project=project))


def test_a_wrap_unwraps_under_the_same_key_and_context_only(key_manager):
    key_manager.create("silver")
    key, wrapped = key_manager.generate("gold", CONTEXT)

    assert key_manager.unwrap("gold", wrapped, dict(reversed(CONTEXT.items()))) == key
    assert len(key) == crypto.KEY_SIZE
    assert key not in wrapped
    for name, context in [("gold", {**CONTEXT, "image": "2"}), ("gold", {}), ("silver", CONTEXT)]:
        with pytest.raises(UnwrapError):
            key_manager.unwrap(name, wrapped, context)


def test_a_wrap_that_was_changed_anywhere_does_not_unwrap(key_manager):
    _, wrapped = key_manager.generate("gold", CONTEXT)

    for at in range(0, len(wrapped), 1 if len(wrapped) < 64 else 7):
        damaged = wrapped[:at] + bytes((wrapped[at] ^ 1,)) + wrapped[at + 1 :]
        with pytest.raises((UnwrapError, KeyMissingError)):
            key_manager.unwrap("gold", damaged, CONTEXT)
    for short in (b"", wrapped[:1], wrapped[: 1 + wrapped[0]]):
        with pytest.raises(UnwrapError):
            key_manager.unwrap("gold", short, CONTEXT)


def test_a_key_of_ones_own_is_wrapped_and_comes_back(key_manager):
    key = crypto.random_key()

    assert key_manager.unwrap("gold", key_manager.wrap("gold", key, CONTEXT), CONTEXT) == key


def test_a_wrap_moves_to_another_key_and_leaves_the_first(key_manager):
    key_manager.create("silver")
    key, wrapped = key_manager.generate("gold", CONTEXT)
    moved = key_manager.rewrap("gold", wrapped, CONTEXT, "silver")

    assert key_manager.unwrap("silver", moved, CONTEXT) == key
    with pytest.raises(UnwrapError):
        key_manager.unwrap("gold", moved, CONTEXT)
    with pytest.raises(UnwrapError):
        key_manager.rewrap("gold", wrapped, {**CONTEXT, "image": "2"}, "silver")


def test_missing_and_taken_keys_are_named(key_manager):
    for use in (
        lambda: key_manager.generate("silver", CONTEXT),
        lambda: key_manager.wrap("silver", bytes(32), CONTEXT),
        lambda: key_manager.find("silver"),
        lambda: key_manager.set_enabled("silver", False),
        lambda: key_manager.begin_rotation("silver"),
        lambda: keys.require_usable(key_manager, "silver"),
    ):
        with pytest.raises(KeyMissingError, match="silver"):
            use()
    with pytest.raises(KeyExistsError, match="gold"):
        key_manager.create("gold")


def test_keys_of_odd_names_are_listed_by_their_names(key_manager):
    names = ["a b", "a.b", "a_b", "a_20b", "A", "-", "v1.0 x"]
    for name in names:
        key_manager.create(name)

    found = key_manager.listed()
    assert [key.name for key in found] == key_manager.names() == sorted([*names, "gold"])
    assert {(key.state, key.rotating) for key in found} == {("enabled", False)}
    assert found[0] == key_manager.find(found[0].name)


def test_each_project_has_its_own_keys(key_manager):
    acme = opened("acme")
    key, wrapped = key_manager.generate("gold", CONTEXT)
    assert acme.listed() == []
    with pytest.raises(KeyMissingError):
        acme.generate("gold", CONTEXT)

    acme.create("gold")
    theirs, _ = acme.generate("gold", CONTEXT)
    acme.set_enabled("gold", False)

    assert theirs != key
    assert key_manager.unwrap("gold", wrapped, CONTEXT) == key
    assert [(key.name, key.state) for key in acme.listed()] == [("gold", "disabled")]


def test_projects_whose_names_would_meet_in_a_path_do_not(key_manager):
    first, second = opened("a"), opened("a_b")
    first.create("b_c")
    second.create("c")

    assert [key.name for key in first.listed()] == ["b_c"]
    assert [key.name for key in second.listed()] == ["c"]


def test_a_disabled_key_is_refused_for_every_use_until_it_is_enabled(key_manager):
    key, wrapped = key_manager.generate("gold", CONTEXT)
    key_manager.create("silver")
    key_manager.set_enabled("gold", False)
    key_manager.set_enabled("gold", False)

    for use in (
        lambda: key_manager.generate("gold", CONTEXT),
        lambda: key_manager.wrap("gold", key, CONTEXT),
        lambda: key_manager.unwrap("gold", wrapped, CONTEXT),
        lambda: key_manager.rewrap("gold", wrapped, CONTEXT, "silver"),
        lambda: key_manager.begin_rotation("gold"),
        lambda: keys.require_usable(key_manager, "gold"),
    ):
        with pytest.raises(KeyDisabledError, match="`darkroom key enable gold`"):
            use()
    assert key_manager.find("gold").state == "disabled"
    key_manager.set_enabled("gold", True)
    assert key_manager.unwrap("gold", wrapped, CONTEXT) == key


def test_after_a_rotation_what_was_not_wrapped_anew_is_lost_and_the_rest_is_not(key_manager):
    before = key_manager.find("gold").version
    key, old = key_manager.generate("gold", CONTEXT)
    rotating = key_manager.begin_rotation("gold")

    assert (rotating.rotating, key_manager.find("gold")) == (True, rotating)
    assert rotating.version != before == keys.split("gold", old)[0]
    assert key_manager.begin_rotation("gold") == rotating
    assert key_manager.unwrap("gold", old, CONTEXT) == key
    new = key_manager.rewrap("gold", old, CONTEXT, "gold")
    assert keys.split("gold", new)[0] == keys.split("gold", key_manager.generate("gold", CONTEXT)[1])[0]
    assert keys.split("gold", new)[0] == rotating.version

    key_manager.end_rotation("gold")
    key_manager.end_rotation("gold")
    assert key_manager.find("gold") == dataclasses.replace(rotating, rotating=False)
    assert [found.name for found in key_manager.listed()] == ["gold"]
    assert key_manager.unwrap("gold", new, CONTEXT) == key
    with pytest.raises((UnwrapError, KeyDisabledError)):
        key_manager.unwrap("gold", old, CONTEXT)


def test_disabling_while_it_rotates_disables_all_versions(key_manager):
    _, old = key_manager.generate("gold", CONTEXT)
    key_manager.begin_rotation("gold")
    _, new = key_manager.generate("gold", CONTEXT)
    key_manager.set_enabled("gold", False)

    for wrapped in (old, new):
        with pytest.raises(KeyDisabledError):
            key_manager.unwrap("gold", wrapped, CONTEXT)


def test_a_good_key_manager_checks_well(key_manager):
    key_manager.check()
    keys.require_usable(key_manager, "gold")


def test_unknown_key_managers_are_refused():
    with pytest.raises(keys.KeysUrlError) as caught:
        keys.open_keys("vault://host/secret-path", Settings())
    assert "secret-path" not in str(caught.value)
