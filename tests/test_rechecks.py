"""Checks of many images: the least lately checked first, within a time, and none that keeps the others from it."""

import json
from pathlib import Path

import pytest

from darkroom import check
from darkroom.catalog import images
from tests import operations


@pytest.fixture
def three(to, raw_disk):
    return [operations.import_image(to, raw_disk, name=name) for name in ("one", "two", "three")]


def checked(to, reference="", seconds=100.0):
    results = check.check_images(to, reference, seconds, lambda name, done, total: None)
    return [(result["name"], len(result["findings"])) for result in results]


def checked_at(to, name):
    return images.find(to.catalog, name)["checked_at"]


def test_the_least_lately_checked_come_first_and_each_once(to, three):
    assert checked(to, "two") == [("two", 0)]
    assert checked(to, "one") == [("one", 0)]

    assert checked(to) == [("three", 0), ("two", 0), ("one", 0)]
    assert checked_at(to, "three") < checked_at(to, "two") < checked_at(to, "one")
    assert images.find(to.catalog, "one")["version"] == 1


def test_no_further_one_is_begun_when_the_time_is_over(to, three, monkeypatch):
    real, begun = check.check_image, []

    def late(*arguments):
        begun.append(1)
        if len(begun) == 2:
            monkeypatch.setattr(check.time, "monotonic", lambda: float("inf"))
        return real(*arguments)

    monkeypatch.setattr(check, "check_image", late)

    assert len(checked(to)) == 2
    monkeypatch.undo()
    (left,) = [name for name in ("one", "two", "three") if checked_at(to, name) is None]
    assert checked(to)[0] == (left, 0)


def test_one_that_is_damaged_or_lost_its_key_keeps_no_other_from_its_check(to, three, raw_disk):
    operations.import_image(to, raw_disk, name="locked", key="gold")
    keys = json.loads(Path(to.keys.url).read_text())
    Path(to.keys.url).write_text(json.dumps({**keys, "projects": {}}))
    to.store.delete(f"images/{three[0]}/disk-0")

    results = check.check_images(to, "", 100.0, lambda name, done, total: None)

    assert sorted((result["name"], *(found["code"] for found in result["findings"])) for result in results) == [
        ("locked", "key-not-found"),
        ("one", "object-missing"),
        ("three",),
        ("two",),
    ]
    assert checked_at(to, "one") is None
    with to.catalog.transaction() as connection:
        events = connection.execute("SELECT outcome FROM events WHERE operation = 'check'").fetchall()
    assert sorted(event["outcome"] for event in events) == ["done", "done", "failed", "failed"]
