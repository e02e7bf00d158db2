"""Families, deprecation, and images that are switched off: what a name means, and what can be used."""

import itertools

import pytest

from darkroom import modifying, reading, standing
from darkroom.catalog import images
from darkroom.modifying import Changes
from tests import operations

_numbers = itertools.count()


@pytest.fixture
def family(shared_to):
    """A family of three images, oldest first: its name, and their ids."""
    name = f"debian-{next(_numbers)}"
    made = [
        operations.image_row(shared_to, f"{name}.{number}", family=name, active_at=f"2026-01-0{number + 1}")
        for number in range(3)
    ]
    return name, made


def found(to, reference):
    return str(images.find(to.catalog, reference)["id"])


def outcomes(results):
    return [result.get("code", result["outcome"]) for result in results]


def test_a_family_means_its_newest_image_that_can_be_used(shared_to, family):
    name, (oldest, middle, newest) = family
    assert found(shared_to, name) == newest

    standing.deprecate(shared_to, [newest])
    assert found(shared_to, name) == middle
    standing.deactivate(shared_to, [middle])
    assert found(shared_to, name) == oldest
    standing.activate(shared_to, [middle])
    standing.undeprecate(shared_to, [newest])
    assert found(shared_to, name) == newest
    standing.deprecate(shared_to, [oldest, middle, newest])
    with pytest.raises(images.ImageMissingError):
        images.find(shared_to.catalog, name)


def test_an_id_comes_before_a_name_and_a_name_before_a_family_and_that_before_a_prefix(shared_to):
    image = operations.image_row(shared_to, "the image")
    thief = operations.image_row(shared_to, image)
    member = operations.image_row(shared_to, "member", family="contested")
    named = operations.image_row(shared_to, "contested")
    relative = operations.image_row(shared_to, "relative", family=image[:8])

    assert found(shared_to, image) == image
    assert found(shared_to, image.upper()) == image
    assert found(shared_to, "contested") == named
    assert found(shared_to, image[:8]) == relative
    assert found(shared_to, image[:9]) == image
    assert found(shared_to, thief) == thief
    modifying.modify(shared_to, [named], Changes({"name": "elsewhere"}))
    assert found(shared_to, "contested") == member


def test_a_family_is_joined_and_left(shared_to, family):
    name, (*_, newest) = family
    image = operations.image_row(shared_to, f"{name}.4")
    modifying.modify(shared_to, [image], Changes({"family": name}))
    assert found(shared_to, name) == image

    modifying.modify(shared_to, [image], Changes({"family": None}))
    assert found(shared_to, name) == newest


def test_a_deprecated_image_tells_its_successor_and_keeps_its_time(shared_to, family):
    name, (oldest, _, newest) = family
    assert outcomes(standing.deprecate(shared_to, [oldest], name)) == ["changed"]
    first = images.get(shared_to.catalog, oldest)
    assert (str(first["replaced_by"]), first["status"]) == (newest, "active")

    assert outcomes(standing.deprecate(shared_to, [oldest])) == ["unchanged"]
    assert outcomes(standing.deprecate(shared_to, [oldest], f"{name}.1")) == ["changed"]
    assert images.get(shared_to.catalog, oldest)["deprecated_at"] == first["deprecated_at"]
    assert outcomes(standing.undeprecate(shared_to, [oldest, oldest])) == ["changed"]
    row = images.get(shared_to.catalog, oldest)
    assert (row["deprecated_at"], row["replaced_by"]) == (None, None)


def test_what_cannot_be_deprecated_is_refused(shared_to, family):
    _, (oldest, middle, _) = family
    killed = operations.image_row(shared_to, f"killed-{oldest}", status="killed")

    assert outcomes(standing.deprecate(shared_to, [oldest, middle, killed], middle)) == [
        "changed",
        "replaced-by-itself",
        "status",
    ]
    with pytest.raises(images.ImageMissingError):
        standing.deprecate(shared_to, [oldest], "nowhere")


def test_whoever_uses_a_deprecated_image_is_told_what_to_use(to, raw_disk, caplog):
    image = operations.import_image(to, raw_disk)
    successor = operations.import_image(to, raw_disk, name="two")
    standing.deprecate(to, [image], "two")

    operations.export_image(to, image, raw_disk.with_name("out.raw"))
    operations.export_image(to, successor, raw_disk.with_name("two.raw"))

    (notice,) = [record.getMessage() for record in caplog.records if record.name == "darkroom"]
    assert notice.startswith("image one has been deprecated since 2")
    assert notice.endswith(f"use image {successor} instead")


def test_a_deactivated_image_cannot_be_read_until_it_is_activated(to, raw_disk):
    image = operations.import_image(to, raw_disk)
    assert outcomes(standing.deactivate(to, ["one", image])) == ["changed", "unchanged"]
    with pytest.raises(reading.NotReadableError, match="deactivated"):
        operations.export_image(to, image, raw_disk.with_name("out.raw"))

    assert outcomes(standing.activate(to, ["one"])) == ["changed"]
    operations.export_image(to, image, raw_disk.with_name("out.raw"))
    assert raw_disk.with_name("out.raw").read_bytes() == raw_disk.read_bytes()


@pytest.mark.parametrize("status", ["saving", "killed", "deleted"])
def test_what_is_not_finished_or_gone_is_neither_switched_off_nor_on(shared_to, status):
    image = operations.image_row(shared_to, f"switched-{status}", status=status)

    assert outcomes(standing.deactivate(shared_to, [image])) == ["status"]
    assert outcomes(standing.activate(shared_to, [image])) == ["status"]
