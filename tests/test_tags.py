"""Tags: limits, many images, and who wins where two write one."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest

from darkroom import rules, sidecar, tagging
from darkroom.catalog import images
from tests import operations

_numbers = itertools.count()


@pytest.fixture
def image(shared_to):
    return operations.image_row(shared_to, f"tagged-{next(_numbers)}", {"team": "web"})


def tag(to, *references, remove=(), **tags):
    return tagging.tag(to, references, tags, remove)


def tags_of(to, image):
    return images.detail(to.catalog, images.get(to.catalog, image)["id"])["tags"]


def test_a_tag_gets_a_new_value_and_others_stay(shared_to, image):
    (result,) = tag(shared_to, image, stage="test", team="db", empty="")

    assert tags_of(shared_to, image) == {"team": "db", "stage": "test", "empty": ""}
    assert (result["outcome"], result["version"]) == ("changed", 2)
    written = sidecar.read(shared_to.store, images.get(shared_to.catalog, image)["id"])
    assert {row["key"]: row["value"] for row in written["tags"]} == {"team": "db", "stage": "test", "empty": ""}


def test_a_tag_is_taken_away_and_one_that_is_not_there_is_gone_already(shared_to, image):
    assert tag(shared_to, image, remove=["team", "never"])[0]["outcome"] == "changed"
    assert tags_of(shared_to, image) == {}
    assert tag(shared_to, image, remove=["team"])[0]["outcome"] == "unchanged"


def test_the_same_again_changes_nothing(shared_to, image):
    assert tag(shared_to, image, team="web")[0] == {
        "image": image,
        "name": images.get(shared_to.catalog, image)["name"],
        "outcome": "unchanged",
        "version": 1,
    }


@pytest.mark.parametrize(
    "tags",
    [
        {"": "v"},
        {"k" * 37: "v"},
        {"k": "v" * 44},
        {"a.b": "v"},
        {"k": "a b"},
        {"k": "=cmd()"},
        {"k": "é"},
        {f"k{number}": "" for number in range(10)},
    ],
    ids=lambda tags: str(tags)[:30],
)
def test_each_rule_refuses_and_the_image_keeps_its_tags(shared_to, image, tags):
    (result,) = tag(shared_to, image, **tags)

    assert (result["outcome"], result["code"]) == ("refused", "tag-invalid")
    assert tags_of(shared_to, image) == {"team": "web"}


@pytest.mark.parametrize("tags", [{"k" * 36: "v" * 43}, {f"k{number}": "" for number in range(9)}])
def test_what_is_just_within_the_rules_is_accepted(shared_to, image, tags):
    assert tag(shared_to, image, **tags)[0]["outcome"] == "changed"


def test_the_operator_sets_other_limits(shared_to, image, monkeypatch):
    for name, value in (("COUNT", "12"), ("KEY_LENGTH", "40"), ("VALUE_LENGTH", "50"), ("CHARACTERS", ".:]")):
        monkeypatch.setenv(f"DARKROOM_TAG_{name}", value)

    assert tag(shared_to, image, **{"k" * 40: "v" * 50, "a.b": "c:d]"})[0]["outcome"] == "changed"
    assert "letters, digits, dashes, underscores . : ]" in tag(shared_to, image, **{"a b": ""})[0]["message"]
    with pytest.raises(rules.TagError, match="at most 12, found 13"):
        rules.check_tags({f"k{number}": "" for number in range(13)})


@pytest.mark.parametrize("status", ["saving", "killed", "deleted"])
def test_an_image_that_is_not_there_to_be_used_gets_no_tags(shared_to, status):
    image = operations.image_row(shared_to, f"not-{status}", status=status)

    assert tag(shared_to, image, team="web")[0]["code"] == "status"


def test_many_images_have_a_result_each(shared_to, image):
    full = operations.image_row(shared_to, "full", {f"k{number}": "" for number in range(10)})
    other = operations.image_row(shared_to, "other")

    results = tag(shared_to, image, "full", "nowhere", other, stage="test")

    assert [result["outcome"] for result in results] == ["changed", "refused", "refused", "changed"]
    assert tags_of(shared_to, other) == {"stage": "test"}
    assert len(tags_of(shared_to, full)) == 10


def test_many_writers_together_stay_within_the_limit_and_each_key_has_one_value(shared_to, image):
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(tag, shared_to, image, **{f"k{n % 14}": str(n), "team": str(n)}) for n in range(28)]
        outcomes = [job.result()[0]["outcome"] for job in jobs]

    assert len(tags_of(shared_to, image)) == rules.TagLimits().count
    assert images.get(shared_to.catalog, image)["version"] == 1 + outcomes.count("changed")
