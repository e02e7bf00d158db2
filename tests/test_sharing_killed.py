"""kill -9 before each statement of share, accept, reject and unshare, and before each use of a key; then once more."""

import dataclasses
import os
import signal

import psycopg
import pytest

from darkroom import inbox, reading, sharing
from darkroom.catalog import Catalog, create_project, images
from darkroom.settings import Settings
from darkroom.systems import open_systems
from tests import operations
from tests.conftest import make_disk

STEPS = ("share", "accept", "reject", "accept", "unshare")
MOST = 60


@pytest.fixture
def image(to, catalog_url, tmp_path):
    with Catalog(catalog_url, None) as operator, operator.transaction() as connection:
        create_project(connection, "acme")
    with open_systems(Settings(project="acme")) as acme:
        acme.keys.create("steel")
        inbox.move(acme.catalog, acme.keys, "steel")
    return operations.import_image(to, make_disk(tmp_path / "disk.raw", size=1 << 20), key="gold")


def run(step, image):
    project = "default" if step in ("share", "unshare") else "acme"
    with open_systems(dataclasses.replace(Settings(), project=project)) as to:
        getattr(sharing, step)(to, image, *(["acme"] if project == "default" else []))


def killed_before(number, step, image):
    """Run a step in a process of its own, which dies before the call of that number; whether it got so far."""
    child = os.fork()
    if child == 0:
        try:
            die_before(number)
            run(step, image)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def die_before(number):
    """Count the statements, the commits, and the writes of sidecars."""
    calls = 0

    def counted(owner, name):
        real = getattr(owner, name)

        def call(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        setattr(owner, name, call)

    counted(psycopg.Connection, "execute")
    counted(psycopg.Connection, "commit")
    counted(sharing.sidecar, "write")


def outcome(to, image):
    """The member's status, whether it has a wrap or a sealed key, and whether it reads the image."""
    with to.catalog.transaction() as connection:
        rows = connection.execute("SELECT status, sealed IS NOT NULL AS sealed FROM members").fetchall()
    with open_systems(Settings(project="acme")) as acme:
        with acme.catalog.transaction() as connection:
            wraps = connection.execute("SELECT count(*) AS n FROM wraps").fetchone()["n"]
        try:
            with reading.open_disk(acme, images.get(acme.catalog, image)) as reader:
                read = bool(reader.read(0, reader.size))
        except images.ImageMissingError:
            read = False
    return [(row["status"], row["sealed"]) for row in rows], wraps, read


def test_killed_before_each_statement_and_run_again_the_outcome_is_one(to, image):
    expected = {
        "share": ([("pending", True)], 0, False),
        "accept": ([("accepted", False)], 1, True),
        "reject": ([("rejected", True)], 0, False),
        "unshare": ([], 0, False),
    }
    before = outcome(to, image)
    for step in STEPS:
        seen = set()
        for number in range(1, MOST):
            if not killed_before(number, step, image):
                break
            now = outcome(to, image)
            assert now in (before, expected[step]), (step, number)
            seen.add(now == before)
        else:
            pytest.fail(f"{step} has more than {MOST} statements")
        assert True in seen, step
        run(step, image)
        before = outcome(to, image)
        assert before == expected[step]
