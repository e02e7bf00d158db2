"""The audit log: what was done, refused and read."""

import json
import os
import subprocess
import sys

import pytest

from darkroom import audit, check, sharing
from darkroom.catalog import Catalog, create_project, images
from darkroom.settings import Settings
from darkroom.store import StoreUnavailableError
from darkroom.systems import open_systems
from tests import operations
from tests.conftest import make_disk


def told(to, image="", *, fields=("operation", "outcome")):
    return [tuple(row[name] for name in fields) for row in reversed(audit.listed(to.catalog, image))]


def test_an_image_is_followed_from_its_import_to_who_read_it(to, raw_disk, catalog_url, tmp_path):
    with Catalog(catalog_url, None) as operator, operator.transaction() as connection:
        create_project(connection, "acme")
    image = operations.import_image(to, raw_disk)
    check.check_image(to, images.find(to.catalog, "one"), operations.quiet)
    sharing.share(to, "one", "acme")
    with open_systems(Settings(project="acme")) as acme:
        sharing.accept(acme, "one")
        operations.export_image(acme, image, tmp_path / "out.raw")
        theirs = told(acme, image)
    sharing.unshare(to, "one", "acme")

    assert told(to, "one") == [
        ("import", "started"),
        ("import", "done"),
        ("read", "done"),
        ("check", "done"),
        ("share", "done"),
        ("unshare", "done"),
    ]
    assert theirs == [("accept", "done"), ("read", "done")]


def test_what_is_refused_is_told_with_the_reason(to, raw_disk, catalog_url):
    with Catalog(catalog_url, None) as operator, operator.transaction() as connection:
        create_project(connection, "acme")
    image = operations.import_image(to, raw_disk)
    token = audit.operation.set("export")

    with pytest.raises(images.ImageMissingError), open_systems(Settings(project="acme")) as acme:
        images.get(acme.catalog, image)
    audit.operation.reset(token)

    with open_systems(Settings(project="acme")) as acme:
        row = audit.listed(acme.catalog, image)[0]
    assert (row["operation"], row["outcome"], row["project"]) == ("export", "refused", "acme")
    assert row["reason"].startswith(f"image-not-found: {image}: there is no such image")
    assert "@" in row["client"]
    assert row["actor"].startswith("darkroom_project_")
    assert ("export", "refused") not in told(to)


def test_what_may_go_well_later_has_failed_and_not_been_refused(to):
    with pytest.raises(StoreUnavailableError), open_systems(Settings()):
        raise StoreUnavailableError("s3://bucket")

    assert told(to) == [("use", "failed")]


def test_an_error_is_raised_where_the_catalog_cannot_be_told(to, catalog_url):
    def refused():
        with open_systems(Settings()) as found:
            found.catalog.close()
            raise images.ImageMissingError("one")

    with pytest.raises(images.ImageMissingError):
        refused()


def test_the_command_shows_ones_own_and_the_operator_all(to, catalog_url, tmp_path):
    disk = make_disk(tmp_path / "disk.raw", size=1 << 20)
    image = operations.import_image(to, disk)
    with Catalog(catalog_url, None) as operator, operator.transaction() as connection:
        create_project(connection, "acme")

    def darkroom(*arguments):
        command = [sys.executable, "-m", "commands.main", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))

    assert darkroom("show", image, "--project", "acme").returncode == 4
    acme = json.loads(darkroom("events", "--json", "--project", "acme").stdout)
    assert [(row["operation"], row["outcome"], row["image_id"]) for row in acme] == [("show", "refused", image)]
    assert "show" not in darkroom("events").stdout
    lines = darkroom("events", image, "--all-projects").stdout.splitlines()
    assert [line.split()[2] for line in lines[1:]] == ["acme", "default", "default"]
    assert darkroom("events", "nothing").returncode == 4
