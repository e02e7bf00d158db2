"""Life by policy: what is planned of which images, what is never touched, and that the plan is what is done."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prefect.artifacts import Artifact

from darkroom import check, modifying, policy, projects, systems
from darkroom.catalog import Catalog, images
from darkroom.modifying import Changes
from darkroom.settings import Settings
from flows.apply_policy import apply_policy
from flows.check_images import check_images
from flows.parameters.policy import ApplyPolicy, CheckImages
from tests import operations


def old(to, name, days, **columns):
    since = datetime.now(UTC) - timedelta(days=days, minutes=1)
    return operations.image_row(to, name, active_at=since, **columns)


def planned(to, **rules):
    policy.set_rules(to, rules)
    return {(step.action, step.name) for step in policy.plan(to)}


def status(to, image):
    row = images.get(to.catalog, image)
    return "deprecated" if row["deprecated_at"] else row["status"]


def test_without_rules_nothing_is_planned(to):
    old(to, "ancient", 9999, family="f")

    assert policy.rules(to) == policy.Rules()
    assert policy.plan(to) == []


def test_images_are_deprecated_and_later_deleted_by_age(to):
    for days in (9, 10, 29, 30):
        old(to, f"d{days}", days)
    old(to, "off", 10, status="deactivated")
    old(to, "gone", 99, status="deleted")
    old(to, "marked", 20, deprecated_at=datetime.now(UTC))

    assert planned(to, deprecate_after=10) == {("deprecate", "d10"), ("deprecate", "d29"), ("deprecate", "d30")}
    assert planned(to, delete_after=30) == {("deprecate", "d10"), ("deprecate", "d29"), ("delete", "d30")}
    assert planned(to, deprecate_after=0, delete_after=10) == {
        ("delete", name) for name in ("d10", "d29", "d30", "off", "marked")
    }


def test_the_last_of_a_family_are_kept_and_the_others_go(to):
    for number in range(5):
        old(to, f"f{number}", 10 * number, family="f")
    old(to, "alone", 99)

    assert planned(to, keep_last=2) == {("delete", "f2"), ("delete", "f3"), ("delete", "f4")}
    assert planned(to, keep_last=5, delete_after=1) == {("delete", "alone")}


def test_the_newest_usable_image_of_a_family_stays_whatever_its_age(to):
    old(to, "bad", 40, family="f", deprecated_at=datetime.now(UTC))
    old(to, "good", 50, family="f")
    old(to, "older", 60, family="f")

    assert planned(to, deprecate_after=1) == {("deprecate", "older")}
    assert planned(to, delete_after=1) == {("delete", "bad"), ("delete", "older")}
    assert planned(to, delete_after=0, keep_last=1) == {("delete", "bad"), ("delete", "older")}


def test_keys_are_rotated_by_age_and_disabled_ones_left(to, raw_disk):
    for name in ("old", "off", "new"):
        to.keys.create(name)
    to.keys.set_enabled("off", False)
    path = Path(to.keys.url)
    content = json.loads(path.read_text())
    for name in ("old", "off"):
        made = datetime.now(UTC) - timedelta(days=181)
        content["projects"]["default"][name]["created_at"] = made.isoformat()
    path.write_text(json.dumps(content))
    image = operations.import_image(to, raw_disk, name="web-1", key="old")

    assert planned(to, rotate_after=182) == set()
    assert planned(to, rotate_after=181) == {("rotate", "old")}
    result = apply_policy(ApplyPolicy())["results"][0]
    assert (result["image"], result["name"], result["outcome"], result["version"]) == ("", "old", "rotated", "2")
    assert policy.plan(to) == []
    assert check.check_images(to, image, 60, lambda *_: None)[0]["findings"] == []

    to.keys.begin_rotation("new")  # cut off there
    assert [step.name for step in policy.plan(to)] == ["new"]
    assert policy.execute(to, policy.plan(to))[0]["outcome"] == "rotated"
    assert policy.plan(to) == []


def test_each_project_has_its_own_rules_done_by_one_run(to, catalog_url):
    with Catalog(catalog_url, None) as operator:
        projects.create(operator, "acme")
    with systems.open_systems(Settings(project="acme")) as acme:
        old(to, "ours", 20)
        old(acme, "theirs", 20)
        policy.set_rules(acme, {"delete_after": 10})

        assert apply_policy(ApplyPolicy())["results"] == []
        done = apply_policy(ApplyPolicy(all_projects=True))["results"]
        assert [(result["name"], result["outcome"]) for result in done] == [("theirs", "deleted")]
        assert images.find(to.catalog, "ours")["status"] == "active"


def test_protected_images_are_never_touched_even_when_the_plan_is_older(to):
    safe = old(to, "safe", 99, protected=True)
    late, later = old(to, "late", 99), old(to, "later", 20)
    assert planned(to, deprecate_after=10, delete_after=30) == {("delete", "late"), ("deprecate", "later")}

    steps = policy.plan(to)
    modifying.modify(to, [late, later], Changes({"protected": True}))
    results = policy.execute(to, steps)

    assert {result["code"] for result in results} == {"protected"}
    assert [status(to, image) for image in (safe, late, later)] == ["active"] * 3
    assert policy.plan(to) == []


def test_what_was_planned_is_done_once_logged_and_can_be_restored(to):
    late, later = old(to, "late", 99), old(to, "later", 20)
    planned(to, deprecate_after=10, delete_after=30)
    steps = policy.plan(to)
    first, again = policy.execute(to, steps), policy.execute(to, steps)

    assert [(result["name"], result["outcome"]) for result in first] == [("late", "deleted"), ("later", "deprecated")]
    assert [result["outcome"] for result in again] == ["deleted", "deprecated"]
    assert first[0]["reason"] == "99 days old, of at most 30"
    assert (status(to, late), status(to, later)) == ("deleted", "deprecated")
    assert policy.plan(to) == []
    with to.catalog.transaction() as connection:
        events = connection.execute("SELECT operation, count(*) AS n FROM events GROUP BY 1").fetchall()
    assert {row["operation"]: row["n"] for row in events} == {"set-policy": 1, "delete": 1, "deprecate": 1}


@pytest.mark.parametrize("changes", [{"keep_last": -1}, {"delete_after": 36501}])
def test_rules_that_cannot_be_are_refused_and_the_old_ones_stay(to, changes):
    policy.set_rules(to, {"keep_last": 3})
    with pytest.raises(policy.RuleError):
        policy.set_rules(to, changes)

    assert policy.rules(to) == policy.Rules(keep_last=3)


def test_a_plan_is_bounded_and_takes_the_oldest_first(to, monkeypatch):
    monkeypatch.setattr(policy, "MOST", 2)
    for days in (20, 40, 30):
        old(to, f"d{days}", days)
    policy.set_rules(to, {"delete_after": 10})

    assert [step.name for step in policy.plan(to)] == ["d40", "d30"]


def test_the_flow_shows_its_plan_does_it_and_checks_what_is_left(prefect_api, to, raw_disk):
    late = operations.import_image(to, raw_disk, name="late")
    operations.import_image(to, raw_disk, name="new")
    with to.catalog.transaction() as connection:
        connection.execute("UPDATE images SET active_at = now() - interval '40 days' WHERE id = %s", (late,))
    policy.set_rules(to, {"delete_after": 30, "check_minutes": 1})

    (step,) = apply_policy(ApplyPolicy(dry_run=True))["steps"]
    assert (step["action"], step["name"], status(to, late)) == ("delete", "late", "active")
    apply_policy(ApplyPolicy())

    assert status(to, late) == "deleted"
    assert [row["outcome"] for row in json.loads(Artifact.get("policy").data)] == ["deleted"]
    assert [(row["image"], row["found"]) for row in json.loads(Artifact.get("check").data)] == [("new", "well")]
    assert images.find(to.catalog, "new")["checked_at"] is not None


def test_a_check_with_findings_ends_as_failed_and_tells_of_which_image(prefect_api, to, raw_disk):
    image = operations.import_image(to, raw_disk)
    assert check_images(CheckImages())["images"] == 1
    to.store.delete(f"images/{image}/disk-0")

    state = check_images(CheckImages(image="one"), return_state=True)
    error = state.result(raise_on_failure=False)
    assert state.is_failed()
    assert isinstance(error, check.FindingsError)
    assert str(error).startswith("findings: one: ")
