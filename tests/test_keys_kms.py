"""AWS KMS, over HTTP against a server: what it says, as our errors."""

import socket

import boto3
import pytest

from darkroom import keys, systems
from darkroom.keys import (
    KeyDisabledError,
    KeyExistsError,
    KeyForbiddenError,
    KeyMissingError,
    KeyNameError,
    KeysThrottledError,
    KeysUnavailableError,
    KeysUrlError,
)
from darkroom.settings import Settings
from tests import servers

CONTEXT = {"purpose": "test", "image": "1"}
ALIAS = "alias/darkroom/default/gold"


@pytest.fixture
def manager(kms):
    found = systems.open_key_manager(Settings(project="default"))
    found.create("gold")
    return found


@pytest.fixture
def by_hand(kms):
    """KMS as whoever manages keys there sees it."""
    return boto3.client("kms", region_name=servers.KMS_REGION, endpoint_url=kms.url)


def deny(kms, *actions):
    kms.rule(deny=[[servers.CREDENTIALS[0], action, ""] for action in actions])


def test_another_client_finds_the_key_by_its_alias_and_undoes_a_wrap(manager, by_hand):
    key, wrapped = manager.generate("gold", CONTEXT)
    version, payload = keys.split("gold", wrapped)
    found = by_hand.decrypt(KeyId=ALIAS, CiphertextBlob=payload, EncryptionContext={**CONTEXT, "key": "gold"})

    assert found["Plaintext"] == key
    assert by_hand.describe_key(KeyId=ALIAS)["KeyMetadata"]["KeyId"] == version


def test_a_key_that_was_made_by_hand_is_used_by_its_alias(manager, by_hand):
    made = by_hand.create_key()["KeyMetadata"]["KeyId"]
    by_hand.create_alias(AliasName="alias/darkroom/default/of_20the_2eteam", TargetKeyId=made)

    keys.require_usable(manager, "of the.team")
    assert [key.name for key in manager.listed()] == ["gold", "of the.team"]


@pytest.mark.parametrize("action", ["GenerateDataKey", "Decrypt"])
def test_a_right_that_is_missing_is_told_before_the_key_is_used(kms, manager, action):
    deny(kms, action)

    with pytest.raises(KeyForbiddenError, match="gold") as caught:
        keys.require_usable(manager, "gold")
    assert not caught.value.retryable


def test_every_use_without_its_right_is_forbidden_and_lists_are_too(kms, manager):
    key, wrapped = manager.generate("gold", CONTEXT)
    deny(kms, "Encrypt", "ReEncrypt", "ListAliases", "DescribeKey", "DisableKey", "CreateKey")

    for use in (
        lambda: manager.wrap("gold", key, CONTEXT),
        lambda: manager.rewrap("gold", wrapped, CONTEXT, "gold"),
        manager.listed,
        manager.check,
        lambda: manager.find("gold"),
        lambda: manager.set_enabled("gold", False),
        lambda: manager.create("silver"),
    ):
        with pytest.raises(KeyForbiddenError):
            use()


def test_a_key_whose_deletion_is_pending_may_not_be_used_and_comes_back_when_that_is_cancelled(manager, by_hand):
    key, wrapped = manager.generate("gold", CONTEXT)
    version = manager.find("gold").version
    by_hand.schedule_key_deletion(KeyId=version, PendingWindowInDays=7)
    with pytest.raises(KeyDisabledError, match=r"pending deletion.*cancelled"):
        manager.unwrap("gold", wrapped, CONTEXT)
    assert manager.find("gold").state == "pending-deletion"

    by_hand.cancel_key_deletion(KeyId=version)
    manager.set_enabled("gold", True)
    assert manager.unwrap("gold", wrapped, CONTEXT) == key


def test_unknown_credentials_are_forbidden(kms, manager, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    with pytest.raises(KeyForbiddenError, match="UnrecognizedClient"):
        systems.open_key_manager(Settings(project="default")).check()

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    with pytest.raises(KeyForbiddenError, match="credentials"):
        systems.open_key_manager(Settings(project="default")).check()


def test_short_trouble_is_sat_out_and_long_trouble_is_named_and_retryable(kms, manager):
    kms.rule(throttle=2)
    keys.require_usable(manager, "gold")
    kms.rule(fail=2)
    keys.require_usable(manager, "gold")

    for rules, kind in (({"throttle": 50}, KeysThrottledError), ({"fail": 50}, KeysUnavailableError)):
        kms.rule(**rules)
        with pytest.raises(kind, match="gold") as caught:
            manager.generate("gold", CONTEXT)
        assert caught.value.retryable


def test_a_server_that_is_not_there_is_unavailable(kms, monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("DARKROOM_KMS_ENDPOINT_URL", f"http://127.0.0.1:{probe.getsockname()[1]}")
        manager = systems.open_key_manager(Settings(project="default"))

        with pytest.raises(KeysUnavailableError) as caught:
            manager.generate("gold", CONTEXT)
    assert caught.value.retryable


def test_a_key_that_loses_the_race_for_its_alias_does_not_stay(manager, by_hand, monkeypatch):
    monkeypatch.setattr(manager, "_target", lambda alias: None)
    with pytest.raises(KeyExistsError):
        manager.create("gold")

    found = [by_hand.describe_key(KeyId=key["KeyId"])["KeyMetadata"] for key in by_hand.list_keys()["Keys"]]
    assert sorted(key["KeyState"] for key in found) == ["Enabled", "PendingDeletion"]


def test_the_old_version_of_a_rotated_key_can_be_kept_for_thirty_days(manager, by_hand):
    old = manager.find("gold").version
    manager.begin_rotation("gold")
    manager.end_rotation("gold")

    found = by_hand.describe_key(KeyId=old)["KeyMetadata"]
    assert found["KeyState"] == "PendingDeletion"
    assert 29 <= (found["DeletionDate"] - found["CreationDate"]).days <= 30


@pytest.mark.parametrize("right", ["CreateKey", "CreateAlias", "UpdateAlias"])
def test_a_rotation_without_its_rights_changes_nothing(kms, manager, by_hand, right):
    before = manager.find("gold")
    deny(kms, right)
    with pytest.raises(KeyForbiddenError, match="gold"):
        manager.begin_rotation("gold")

    kms.rule()
    assert manager.find("gold") == before
    found = [by_hand.describe_key(KeyId=key["KeyId"])["KeyMetadata"] for key in by_hand.list_keys()["Keys"]]
    assert [key["KeyId"] for key in found if key["KeyState"] == "Enabled"] == [before.version]


@pytest.mark.parametrize("killed_before", ["create_alias", "update_alias", "schedule_key_deletion", "delete_alias"])
def test_a_rotation_that_was_killed_in_any_request_goes_on(manager, by_hand, killed_before, monkeypatch):
    key, old = manager.generate("gold", CONTEXT)
    monkeypatch.setattr(manager._client, killed_before, interrupt)
    with pytest.raises(KeyboardInterrupt):
        rotate(manager)
    assert manager.find("gold").rotating == (killed_before != "create_alias")

    again = systems.open_key_manager(Settings(project="default"))
    rotating = again.begin_rotation("gold")
    if killed_before in ("create_alias", "update_alias"):
        assert again.unwrap("gold", again.rewrap("gold", old, CONTEXT, "gold"), CONTEXT) == key
    again.end_rotation("gold")

    assert rotating.version != keys.split("gold", old)[0]
    assert not again.find("gold").rotating
    assert by_hand.describe_key(KeyId=keys.split("gold", old)[0])["KeyMetadata"]["KeyState"] == "PendingDeletion"


def rotate(manager):
    manager.begin_rotation("gold")
    manager.end_rotation("gold")


def interrupt(**_):
    raise KeyboardInterrupt


def test_names_that_do_not_fit_an_alias_are_refused(manager):
    manager.create("x" * 128)
    with pytest.raises(KeyNameError):
        manager.create("." * 128)


@pytest.mark.parametrize(
    ("url", "endpoint"), [("aws-kms://host:80/secret", ""), ("aws-kms://", ""), ("aws-kms://eu-west-1", "no address")]
)
def test_addresses_that_are_none_are_refused(kms, monkeypatch, url, endpoint):
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    with pytest.raises(KeysUrlError) as caught:
        keys.open_keys(url, Settings(kms_endpoint_url=endpoint))
    assert "secret" not in str(caught.value)


def test_a_missing_key_is_missing_not_forbidden(manager):
    with pytest.raises(KeyMissingError):
        manager.generate("silver", CONTEXT)
