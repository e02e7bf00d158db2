"""A key that may not be used: whatever needs it says so at once, and nothing is half done. Against a KMS server."""

import dataclasses

import boto3
import pytest

from darkroom import inbox, keyring, rekeying, sharing, systems
from darkroom.catalog import Catalog, create_project, images
from darkroom.keys import KeyDisabledError, KeyForbiddenError, KeyMissingError, KeysUnavailableError
from darkroom.settings import Settings
from tests import operations, servers
from tests.conftest import make_disk
from tests.operations import quiet

ALIAS = "alias/darkroom/default/gold"
STATES = {
    "disabled": KeyDisabledError,
    "about to be deleted": KeyDisabledError,
    "missing": KeyMissingError,
    "forbidden": KeyForbiddenError,
    "unavailable": KeysUnavailableError,
}
# Reading asks for the KMS key itself, by its id: an alias that is gone does no harm to it.
READ_STATES = [state for state in STATES if state != "missing"]


@pytest.fixture
def disk(tmp_path):
    return make_disk(tmp_path / "small.raw", size=3 << 20)


@pytest.fixture
def put_into(kms):
    """Puts the key `gold` into a state."""

    def put(state):
        client = boto3.client("kms", region_name=servers.KMS_REGION, endpoint_url=kms.url)
        key = client.describe_key(KeyId=ALIAS)["KeyMetadata"]["KeyId"]
        if state == "disabled":
            client.disable_key(KeyId=key)
        elif state == "about to be deleted":
            client.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)
        elif state == "missing":
            client.delete_alias(AliasName=ALIAS)
        elif state == "forbidden":
            actions = ("GenerateDataKey", "Encrypt", "Decrypt", "ReEncrypt")
            kms.rule(deny=[[servers.CREDENTIALS[0], action, name] for action in actions for name in (ALIAS, key)])
        else:
            kms.rule(fail=1000)

    return put


def everything(to, catalog_url):
    """All rows and objects, but for what the audit log says."""
    found = {}
    with Catalog(catalog_url, None) as operator, operator.transaction() as connection:
        tables = connection.execute(
            "SELECT tablename AS name FROM pg_tables WHERE schemaname = 'darkroom' AND tablename <> 'events'"
        ).fetchall()
        for table in tables:
            rows = connection.execute(f"SELECT t::text AS row FROM {table['name']} t ORDER BY 1").fetchall()
            found[table["name"]] = [row["row"] for row in rows]
    return found, operations.objects(to)


@pytest.fixture
def acme(to_kms, catalog_url):
    """Another project, with an inbox for data keys."""
    with Catalog(catalog_url, None) as operator, operator.transaction() as connection:
        create_project(connection, "acme")
    with systems.open_systems(dataclasses.replace(Settings(), project="acme")) as found:
        found.keys.create("own")
        inbox.move(found.catalog, found.keys, "own")
        yield found


@pytest.mark.parametrize("state", STATES)
def test_an_import_is_refused_before_there_is_a_row(to_kms, catalog_url, disk, put_into, state):
    operations.import_image(to_kms, disk, "first", key="gold")
    before = everything(to_kms, catalog_url)
    put_into(state)

    with pytest.raises(STATES[state], match="gold"):
        operations.import_image(to_kms, disk, "second", key="gold")

    assert everything(to_kms, catalog_url) == before


@pytest.mark.parametrize("state", READ_STATES)
def test_what_reads_the_image_says_so_and_leaves_nothing(to_kms, acme, catalog_url, disk, put_into, tmp_path, state):
    image = operations.import_image(to_kms, disk, key="gold")
    to_kms.keys.create("silver")
    before = everything(to_kms, catalog_url)
    put_into(state)

    for use in (
        lambda: operations.content(to_kms, image),
        lambda: operations.export_image(to_kms, image, tmp_path / "out.raw"),
        lambda: operations.export_image(to_kms, image, tmp_path / "out.qcow2", "qcow2"),
        lambda: sharing.share(to_kms, image, "acme"),
        lambda: rekeying.rekey(to_kms, image, "silver"),
        lambda: operations.replicate(to_kms, image, plain=True),
        lambda: keyring.rotate(to_kms, "gold", quiet),
    ):
        with pytest.raises(STATES[state]) as caught:
            use()
        assert caught.value.which in ("gold", "silver") or state == "unavailable"

    assert everything(to_kms, catalog_url) == before
    assert [path.name for path in tmp_path.iterdir()] == [disk.name]


def test_an_image_whose_alias_is_gone_is_still_read_and_comes_under_another_key(to_kms, disk, put_into):
    image = operations.import_image(to_kms, disk, key="gold")
    to_kms.keys.create("silver")
    put_into("missing")

    assert operations.content(to_kms, image) == disk.read_bytes()
    rekeying.rekey(to_kms, image, "silver")
    assert operations.content(to_kms, image) == disk.read_bytes()


@pytest.mark.parametrize("state", ["disabled", "forbidden"])
def test_a_member_reads_on_when_the_owners_key_is_not_to_be_had(to_kms, acme, disk, put_into, state):
    image = operations.import_image(to_kms, disk, key="gold")
    sharing.share(to_kms, image, "acme")
    sharing.accept(acme, image)
    put_into(state)

    assert operations.content(acme, image) == disk.read_bytes()
    with pytest.raises(STATES[state]):
        operations.content(to_kms, image)


def test_a_member_whose_own_key_is_disabled_accepts_nothing_and_then_all(to_kms, acme, catalog_url, disk):
    image = operations.import_image(to_kms, disk, key="gold")
    sharing.share(to_kms, image, "acme")
    before = everything(to_kms, catalog_url)
    acme.keys.set_enabled("own", False)
    with pytest.raises(KeyDisabledError, match="own"):
        sharing.accept(acme, image)
    assert everything(to_kms, catalog_url) == before

    acme.keys.set_enabled("own", True)
    sharing.accept(acme, image)
    assert operations.content(acme, image) == disk.read_bytes()


def test_an_import_whose_key_is_disabled_in_the_middle_ends_with_that_reason(to_kms, disk):
    image = operations.import_image(to_kms, disk, key="gold", until="probe")
    to_kms.keys.set_enabled("gold", False)

    with pytest.raises(KeyDisabledError, match="gold"):
        operations.creation.create_data_key(to_kms, image)
    with to_kms.catalog.transaction() as connection:
        assert connection.execute("SELECT 1 FROM wraps WHERE image_id = %s", (image,)).fetchall() == []
    assert images.get(to_kms.catalog, image)["status"] == "queued"


def test_a_members_inbox_and_wraps_are_rotated_too(to_kms, acme, disk):
    """Also those of an image that the member does not see at the moment."""
    first = operations.import_image(to_kms, disk, key="gold")
    second = operations.import_image(to_kms, disk, "two", key="gold")
    for image in (first, second):
        sharing.share(to_kms, image, "acme")
    sharing.accept(acme, first)
    with to_kms.catalog.transaction() as connection:
        images.move(connection, first, "deactivated")

    assert keyring.rotate(acme, "own", quiet)["rewrapped"] == 2

    sharing.accept(acme, second)
    with to_kms.catalog.transaction() as connection:
        images.move(connection, first, "active")
    for image in (first, second):
        assert operations.content(acme, image) == disk.read_bytes()
