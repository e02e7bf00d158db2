"""No data key, scope secret, inbox or KEK is anywhere in the clear, whatever is done with images and keys."""

import base64
import dataclasses
import json
import re
from pathlib import Path

import pytest

from blocks.project import Project
from darkroom import crypto, keyring, systems
from darkroom.catalog import Catalog, create_project
from darkroom.keys.kms import KmsKeys
from darkroom.keys.local import LocalKeys
from darkroom.settings import Settings
from flows.answer_share import answer_share
from flows.create_key import create_key
from flows.import_image import import_image
from flows.move_inbox import move_inbox
from flows.parameters.base import SystemBlocks
from flows.parameters.keys import CreateKey, RekeyImage, ReplicateImage, RotateKey
from flows.parameters.projects import MoveInbox
from flows.parameters.sharing import AnswerShare, ShareImage
from flows.parameters.transfer import ImportImage
from flows.rekey_image import rekey_image
from flows.replicate_image import replicate_image
from flows.rotate_key import rotate_key
from flows.share_image import share_image
from tests import operations
from tests.conftest import make_disk


@pytest.fixture
def secrets(monkeypatch):
    """Every key that is made, wrapped or unwrapped from now on."""
    found = set()

    def noted(real, pick):
        def call(*arguments):
            result = real(*arguments)
            found.add(pick(arguments, result))
            return result

        return call

    monkeypatch.setattr(crypto, "random_key", noted(crypto.random_key, lambda _, result: result))
    for kind in (LocalKeys, KmsKeys):
        monkeypatch.setattr(kind, "generate", noted(kind.generate, lambda _, result: result[0]))
        monkeypatch.setattr(kind, "unwrap", noted(kind.unwrap, lambda _, result: result))
        monkeypatch.setattr(kind, "wrap", noted(kind.wrap, lambda arguments, _: arguments[2]))
    return found


def keks(home):
    """Those in the key file, and those that a rotation has destroyed are among the secrets that were made."""
    if not (home / "keys.json").exists():
        return
    for entries in json.loads((home / "keys.json").read_text())["projects"].values():
        for entry in entries.values():
            yield from map(base64.b64decode, entry["versions"].values())


def everywhere(to, catalog_url, home, prefect_folder):
    """All bytes that are kept, by where they are: objects, rows, and files, with those of Prefect's server."""
    for key in operations.objects(to):
        yield key, to.store.get(key)
    with Catalog(catalog_url, None) as operator, operator.transaction() as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'darkroom'").fetchall()
        for table in tables:
            rows = connection.execute(f"SELECT t::text FROM {table['tablename']} t").fetchall()
            yield table["tablename"], str(rows).encode()
    for folder in (home, prefect_folder):
        for path in Path(folder).rglob("*"):
            if path.is_file() and path.name != "keys.json":
                yield str(path), path.read_bytes()


def spelled(secret):
    return (secret, secret.hex().encode(), base64.b64encode(secret).rstrip(b"="), repr(secret)[2:-1].encode())


@pytest.mark.parametrize("manager", ["local", "kms"])
def test_no_secret_is_found_in_what_is_kept_or_told(
    manager, request, secrets, prefect_api, prefect_folder, catalog_url, home, tmp_path, caplog, capfd
):
    caplog.set_level("DEBUG")
    if manager == "kms":
        request.getfixturevalue("kms")
    disk = make_disk(tmp_path / "small.raw", size=3 << 20)
    with systems.open_systems(Settings()) as to:
        for key in ("gold", "silver"):
            keyring.create(to, key)
        import_image(ImportImage(source=str(disk), name="one", key="gold"))
        replicate_image(ReplicateImage(image="one", name="two"))
        replicate_image(ReplicateImage(image="one", name="three", key="silver"))
        rekey_image(RekeyImage(image="two", key="silver"))
        rotate_key(RotateKey(key="silver"))
        with Catalog(catalog_url, None) as operator, operator.transaction() as connection:
            create_project(connection, "acme")
        Project(name="acme").save("acme", overwrite=True)
        member = SystemBlocks(project="acme")
        create_key(CreateKey(key="own", blocks=member))
        move_inbox(MoveInbox(key="own", blocks=member))
        share_image(ShareImage(image="two", projects=["acme"]))
        answer_share(AnswerShare(image="two", blocks=member))
        with systems.open_systems(dataclasses.replace(Settings(), project="acme")) as acme:
            assert operations.content(acme, str(operations.images.find(acme.catalog, "two")["id"])) == disk.read_bytes()
        with pytest.raises(Exception, match="key-not-found"):
            import_image(ImportImage(source=str(disk), name="four", key="bronze"))

        told = [("log", caplog.text.encode()), ("output", "".join(capfd.readouterr()).encode())]
        known = secrets | set(keks(home))
        kept = list(everywhere(to, catalog_url, home, prefect_folder))

    assert len(known) >= 6
    for run in (b"rekey-image", b"create-key", b"move-inbox", b"share-image", b"answer-share"):
        assert any(run in data for _, data in kept), run
    assert any(re.search(rb'"projects": ?\["acme"\]', data) for where, data in kept if prefect_folder.name in where)
    places = [where for where, data in kept + told for secret in known if any(s in data for s in spelled(secret))]
    assert places == []
