"""Sharing: who sees and reads a shared image, and that no project needs a key of another."""

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from darkroom import inbox, reading, sharing, systems
from darkroom.catalog import Catalog, ProjectMissingError, create_project, images, listing
from darkroom.keys import KeyDisabledError, KeyMissingError
from darkroom.reading import NotReadableError
from darkroom.settings import Settings
from darkroom.systems import WrapMissingError, open_systems
from tests import operations


@pytest.fixture
def acme(to, catalog_url, home):
    """Systems of another project, whose key manager holds a key of its own and none of the owner's."""
    with Catalog(catalog_url, None) as operator, operator.transaction() as connection:
        create_project(connection, "acme")
    settings = dataclasses.replace(Settings(), project="acme", keys_url=str(home / "acme.json"))
    with open_systems(settings) as found:
        found.keys.create("steel")
        inbox.move(found.catalog, found.keys, "steel")
        yield found


@pytest.fixture
def image(to, raw_disk):
    return operations.import_image(to, raw_disk, key="gold", tags={"team": "web"})


def forget(keys, name):
    """Take a key out of the key file, as if it had been destroyed."""
    file = Path(keys.url)
    content = json.loads(file.read_text())
    del content["projects"][keys.project][name]
    file.write_text(json.dumps(content))


def wraps(catalog_url):
    with Catalog(catalog_url, None) as operator, operator.transaction() as connection:
        query = "SELECT p.name, w.key_name FROM wraps w JOIN projects p ON p.id = w.project_id ORDER BY 1"
        return [tuple(row.values()) for row in connection.execute(query)]


def test_an_accepted_image_reads_the_same_when_the_owners_key_is_gone(to, acme, image, raw_disk, catalog_url):
    before = {key: size for key, size in operations.objects(to).items() if not key.endswith(".json")}

    assert sharing.share(to, "one", "acme")["outcome"] == "pending"
    forget(to.keys, "gold")
    accepted = sharing.accept(acme, "one")

    assert accepted == {"image": image, "name": "one", "project": "default", "outcome": "accepted"}
    assert operations.content(acme, image) == raw_disk.read_bytes()
    assert wraps(catalog_url) == [("acme", "steel"), ("default", "gold")]
    assert {key: size for key, size in operations.objects(to).items() if not key.endswith(".json")} == before


def test_an_unshared_image_is_gone_from_the_next_opening(to, acme, image, catalog_url):
    sharing.share(to, "one", "acme")
    sharing.accept(acme, "one")
    row = images.get(acme.catalog, image)

    assert sharing.unshare(to, image, "acme")["outcome"] == "unshared"

    assert wraps(catalog_url) == [("default", "gold")]
    with pytest.raises(images.ImageMissingError), reading.open_disk(acme, row):
        pass
    with pytest.raises(images.ImageMissingError):
        sharing.accept(acme, "one")
    assert sharing.unshare(to, image, "acme")["outcome"] == "not shared"


def test_a_rejected_image_cannot_be_read_and_can_be_accepted_later(to, acme, image, raw_disk, catalog_url):
    sharing.share(to, "one", "acme")
    sharing.accept(acme, "one")

    assert sharing.reject(acme, "one")["outcome"] == "rejected"
    assert wraps(catalog_url) == [("default", "gold")]
    with pytest.raises(images.ImageMissingError):
        images.find(acme.catalog, image)

    sharing.accept(acme, image[:8])
    assert operations.content(acme, image) == raw_disk.read_bytes()


def test_a_pending_image_can_be_rejected_and_accepted(to, acme, image, raw_disk):
    sharing.share(to, "one", "acme")
    sharing.reject(acme, "one")
    assert [row["status"] for row in sharing.outgoing(to.catalog)] == ["rejected"]

    sharing.accept(acme, "one")
    assert operations.content(acme, image) == raw_disk.read_bytes()


def test_a_member_chooses_the_key_and_changes_it_by_accepting_again(to, acme, image, raw_disk, catalog_url):
    acme.keys.create("zinc")
    acme.keys.create("iron")
    sharing.share(to, "one", "acme")

    sharing.accept(acme, "one", "zinc")
    assert wraps(catalog_url)[0] == ("acme", "zinc")
    sharing.accept(acme, "one", "iron")
    forget(acme.keys, "zinc")
    sharing.accept(acme, "one")

    assert wraps(catalog_url)[0] == ("acme", "iron")
    assert operations.content(acme, image) == raw_disk.read_bytes()


def test_a_key_that_is_missing_leaves_the_share_as_it_was(to, acme, image):
    sharing.share(to, "one", "acme")

    with pytest.raises(KeyMissingError, match="zinc"):
        sharing.accept(acme, "one", "zinc")
    assert [row["status"] for row in sharing.incoming(acme.catalog)] == ["pending"]
    with pytest.raises(images.ImageMissingError):
        images.find(acme.catalog, "one")
    forget(acme.keys, "steel")
    with pytest.raises(KeyMissingError, match="steel"):
        sharing.accept(acme, "one")
    assert sharing.reject(acme, "one")["outcome"] == "rejected"


def test_a_renewed_inbox_needs_the_share_again(to, acme, image, raw_disk):
    sharing.share(to, "one", "acme")
    acme.keys.create("zinc")
    forget(acme.keys, "steel")
    inbox.move(acme.catalog, acme.keys, "zinc", renew=True)
    with pytest.raises(sharing.crypto.SealBrokenError, match="share it again"):
        sharing.accept(acme, "one")

    sharing.share(to, "one", "acme")
    sharing.accept(acme, "one")
    assert operations.content(acme, image) == raw_disk.read_bytes()


def test_an_inbox_that_moves_to_another_key_opens_what_was_sealed_before(to, acme, image, raw_disk):
    sharing.share(to, "one", "acme")
    acme.keys.create("zinc")
    inbox.move(acme.catalog, acme.keys, "zinc")
    forget(acme.keys, "steel")

    sharing.accept(acme, "one")
    assert operations.content(acme, image) == raw_disk.read_bytes()


def test_a_project_that_lost_its_key_while_it_rejected_asks_for_the_share_again(to, acme, image):
    sharing.share(to, "one", "acme")
    sharing.accept(acme, "one")
    forget(acme.keys, "steel")
    acme.keys.create("zinc")

    sharing.reject(acme, "one")
    with pytest.raises(WrapMissingError, match="share it again"):
        sharing.accept(acme, "one", "zinc")


def test_what_a_trusted_owner_shares_is_accepted_at_once(to, acme, image, raw_disk, catalog_url):
    sharing.trust(acme.catalog, "default", trusted=True)
    assert sharing.trusted(acme.catalog) == ["default"]

    assert sharing.share(to, "one", "acme")["outcome"] == "accepted"
    forget(to.keys, "gold")
    assert operations.content(acme, image) == raw_disk.read_bytes()
    assert wraps(catalog_url) == [("acme", "steel"), ("default", "gold")]

    sharing.unshare(to, "one", "acme")
    sharing.trust(acme.catalog, "default", trusted=False)
    to.keys.create("gold2")
    with pytest.raises(KeyMissingError):
        sharing.share(to, "one", "acme")


def test_an_image_is_shared_by_its_owner_with_others_that_can_receive_it(to, acme, image, catalog_url):
    with Catalog(catalog_url, None) as operator, operator.transaction() as connection:
        create_project(connection, "poor")

    with pytest.raises(ProjectMissingError, match="nobody"):
        sharing.share(to, "one", "nobody")
    with pytest.raises(sharing.ShareWithOwnerError):
        sharing.share(to, "one", "default")
    with pytest.raises(sharing.InboxMissingError, match="project inbox"):
        sharing.share(to, "one", "poor")
    sharing.share(to, "one", "acme")
    sharing.accept(acme, "one")
    for call in (sharing.share, sharing.unshare):
        with pytest.raises(images.NotOwnerError):
            call(acme, "one", "poor")


def test_a_plain_image_is_shared_without_any_key(to, acme, raw_disk):
    image = operations.import_image(to, raw_disk, name="plain")
    sharing.share(to, "plain", "acme")
    forget(acme.keys, "steel")

    sharing.accept(acme, "plain")
    assert operations.content(acme, image) == raw_disk.read_bytes()
    sharing.reject(acme, "plain")
    sharing.accept(acme, "plain")
    assert operations.content(acme, image) == raw_disk.read_bytes()


def test_an_image_that_is_not_active_is_neither_shared_nor_seen_by_members(to, acme, image):
    sharing.share(to, "one", "acme")
    sharing.accept(acme, "one")
    with to.catalog.transaction() as connection:
        images.move(connection, images.get(to.catalog, image)["id"], "deactivated")

    with pytest.raises(NotReadableError):
        sharing.share(to, "one", "acme")
    assert sharing.incoming(acme.catalog) == []
    for reference in ("one", image, image[:8]):
        with pytest.raises(images.ImageMissingError):
            images.find(acme.catalog, reference)


def test_own_names_come_before_shared_ones(to, acme, image, raw_disk):
    sharing.share(to, "one", "acme")
    sharing.accept(acme, "one")
    assert str(images.find(acme.catalog, "one")["id"]) == image

    own = operations.import_image(acme, raw_disk, name="one", key="steel")

    assert str(images.find(acme.catalog, "one")["id"]) == own
    rows = listing.page(acme.catalog, listing.Filter())
    assert [(row["own"], row["owner"]) for row in rows] == [(True, None), (False, "default")]
    assert [row["tags"] for row in rows] == [{}, {"team": "web"}]
    assert systems.data_key(acme, images.get(acme.catalog, image)) != systems.data_key(
        acme, images.get(acme.catalog, own)
    )


def test_keys_in_kms_stay_with_their_projects(to_kms, catalog_url, raw_disk):
    """Each project's key manager knows its own keys alone; the owner's is disabled before the member accepts."""
    with Catalog(catalog_url, None) as operator, operator.transaction() as connection:
        create_project(connection, "acme")
    with open_systems(dataclasses.replace(Settings(), project="acme")) as acme:
        acme.keys.create("steel")
        inbox.move(acme.catalog, acme.keys, "steel")
        image = operations.import_image(to_kms, raw_disk, key="gold")
        sharing.share(to_kms, "one", "acme")
        to_kms.keys.set_enabled("gold", False)

        sharing.accept(acme, "one")
        assert operations.content(acme, image) == raw_disk.read_bytes()
        acme.keys.set_enabled("steel", False)
        with pytest.raises(KeyDisabledError):
            operations.content(acme, image)


def test_an_answer_and_the_end_of_the_share_at_once_leave_no_wrap_behind(to, acme, image, catalog_url):
    for _ in range(8):
        sharing.share(to, "one", "acme")
        with ThreadPoolExecutor(2) as pool:
            answered = pool.submit(sharing.accept, acme, image)
            ended = pool.submit(sharing.unshare, to, image, "acme")

        assert ended.result()["outcome"] == "unshared"
        assert answered.exception() is None or isinstance(answered.exception(), images.ImageMissingError)
        assert wraps(catalog_url) == [("default", "gold")]
        with pytest.raises(images.ImageMissingError):
            images.find(acme.catalog, image)
