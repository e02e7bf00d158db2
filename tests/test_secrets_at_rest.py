"""After an image was imported, shared, accepted, replicated, re-keyed and exported: where its secrets are not."""

import base64
import json
import logging
import sqlite3
from pathlib import Path

import pytest
from prefect.settings import PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

from darkroom import crypto, inbox, systems
from darkroom.catalog import Catalog, create_project, images
from darkroom.settings import Settings
from darkroom.systems import open_systems
from flows.answer_share import answer_share
from flows.export_image import export_image
from flows.import_image import import_image
from flows.parameters.keys import RekeyImage, ReplicateImage, RotateKey
from flows.parameters.sharing import AnswerShare, ShareImage
from flows.parameters.transfer import ExportImage, ImportImage
from flows.rekey_image import rekey_image
from flows.replicate_image import replicate_image
from flows.rotate_key import rotate_key
from flows.share_image import share_image
from tests.conftest import make_disk


@pytest.fixture
def acme(to, catalog_url):
    with Catalog(catalog_url, None) as operator, operator.transaction() as connection:
        create_project(connection, "acme")
    with open_systems(Settings(project="acme")) as found:
        found.keys.create("steel")
        inbox.move(found.catalog, found.keys, "steel")
        yield found


def keks(to):
    """The KEKs of all projects, from the key file, which is where they belong."""
    projects = json.loads(Path(to.keys.url).read_text())["projects"]
    versions = [key["versions"].values() for keys in projects.values() for key in keys.values()]
    return [base64.b64decode(version) for each in versions for version in each]


def secrets_of(to, name):
    """The data key of an image, the secret of its scope and the project's private key."""
    image = images.find(to.catalog, name)
    found = [systems.data_key(to, image)]
    with to.catalog.transaction() as connection:
        scopes = connection.execute("SELECT * FROM scopes WHERE key_name IS NOT NULL").fetchall()
        box = connection.execute("SELECT * FROM inboxes").fetchone()
    project = to.settings.project
    for scope in scopes:
        context = systems.scope_secret_context(project, scope["uuid"])
        found.append(to.keys.unwrap(scope["key_name"], scope["wrapped_secret"], context))
    return [*found, to.keys.unwrap(box["key_name"], box["wrapped"], inbox.context(project))]


def everything(dsn):
    """All rows of all tables of the catalog, as text."""
    with Catalog(dsn, None) as operator, operator.transaction() as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'darkroom'").fetchall()
        return "".join(
            row["t"] for table in tables for row in connection.execute(f"SELECT t::text FROM {table['tablename']} t")
        )


def files(folder, *besides):
    """The bytes of all files, those of SQLite databases as text too."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path not in besides:
            yield path, path.read_bytes()
            if path.suffix == ".db":
                with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
                    yield path, "\n".join(connection.iterdump()).encode()


def forms(secret):
    """A secret as somebody might have written it down."""
    return secret, secret.hex().encode(), base64.b64encode(secret), repr(secret).encode()


def test_secrets_are_in_no_object_row_log_or_database_of_prefect(
    to, acme, catalog_url, prefect_api, prefect_folder, tmp_path, monkeypatch, caplog
):
    caplog.set_level(logging.DEBUG)
    disk = make_disk(tmp_path / "disk.raw", size=2 << 20)
    to.keys.create("silver")
    with temporary_settings({PREFECT_LOGGING_TO_API_ENABLED: True}):
        import_image(ImportImage(source=str(disk), name="one", key="gold", format="raw"))
        share_image(ShareImage(image="one", projects=["acme"]))
        found = secrets_of(to, "one")
        monkeypatch.setenv("DARKROOM_PROJECT", "acme")
        answer_share(AnswerShare(image="one"))
        replicate_image(ReplicateImage(image="one", name="copy", key="steel"))
        export_image(ExportImage(image="one", target=str(tmp_path / "out.qcow2")))
        found += secrets_of(acme, "copy")
        monkeypatch.setenv("DARKROOM_PROJECT", "default")
        rekey_image(RekeyImage(image="one", key="silver"))
        found += keks(to)
        rotate_key(RotateKey(key="silver"))
        found += keks(to)

    places = [
        *((str(path), content) for path, content in files(to.settings.home, Path(to.keys.url))),
        *((str(path), content) for path, content in files(prefect_folder, prefect_folder / "password")),
        ("catalog", everything(catalog_url).encode()),
        ("log", caplog.text.encode()),
    ]
    names = " ".join(name for name, _ in places)
    assert "/packs/" in names
    assert ".db" in names
    assert any(b"share-image" in content for name, content in places if name.endswith(".db"))
    assert len({*found}) >= 9
    assert {len(secret) for secret in found} == {crypto.KEY_SIZE}
    for name, content in places:
        for secret in found:
            assert not [form for form in forms(secret) if form in content], name


def test_the_search_finds_what_is_there(to, tmp_path, catalog_url):
    """The same search, for something that is kept: a wrap in the catalog, and a plain digest in a file."""
    secret = b"\x17" * 32
    with to.catalog.transaction() as connection:
        connection.execute("INSERT INTO inboxes (key_name, public_key, wrapped) VALUES ('gold', '', %s)", (secret,))
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "log").write_text(f"the key is {base64.b64encode(secret).decode()}")
    with sqlite3.connect(tmp_path / "runs.db") as connection:
        connection.execute("CREATE TABLE runs (parameters text)")
        connection.execute("INSERT INTO runs VALUES (?)", (json.dumps({"key": secret.hex()}),))

    assert any(form in everything(catalog_url).encode() for form in forms(secret))
    found = {path.name for path, content in files(tmp_path) if any(form in content for form in forms(secret))}
    assert found == {"log", "runs.db"}
