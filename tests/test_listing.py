"""Lists: what a filter lets through, pages that tile the whole in every order, and what a deep page costs."""

import json
import random
from contextlib import contextmanager
from uuid import UUID

import pytest

from darkroom.catalog import Catalog, create_project, images, listing
from darkroom.catalog.listing import Filter
from tests import operations

LINUX = {"os_type": "Linux", "os_version": "Debian 12"}
WINDOWS = {"os_type": "Windows", "os_version": ""}
NAMES = [f"{kind}-{number}" for kind in ("web", "Web", "db_", "db%") for number in range(8)]


@pytest.fixture(scope="module")
def crowd(shared_to):
    """Images of every kind; each by its name, as the filters see it."""
    chosen = random.Random(7)
    made = {}
    for name in NAMES:
        tags = {key: chosen.choice(["a", "b"]) for key in ("team", "stage", "rare") if chosen.random() < 0.6}
        columns = {
            "status": chosen.choice(["active", "active", "deactivated", "killed", "deleted", "saving"]),
            "type": chosen.choice(["system", "data"]),
            "properties": {
                "os_type": chosen.choice(["Linux", "Windows"]),
                "os_version": chosen.choice(["Debian 12", ""]),
            },
            "stored_size": chosen.choice([None, 0, 5, 7]),
            "family": chosen.choice([None, "web", "db"]),
        }
        image = operations.image_row(shared_to, name, tags, **columns)
        made[name] = {"id": image, "name": name, "tags": tags, **columns}
    with operator(shared_to.settings.catalog_url) as connection:
        connection.execute(
            "UPDATE images SET created_at = date '2026-01-01' + length(name) + coalesce(stored_size, 1)::integer % 3"
        )
    return made


@contextmanager
def operator(dsn):
    with Catalog(dsn, None) as catalog, catalog.transaction() as connection:
        yield connection


def names(to, *arguments, **fields):
    return {row["name"] for row in listing.page(to.catalog, Filter(**fields), *arguments)}


def expected(crowd, test):
    return {name for name, image in crowd.items() if test(image)}


def has(image, *tags):
    return [
        tag
        for tag in tags
        if tag in (key for key in image["tags"]) or tag in {f"{k}={v}" for k, v in image["tags"].items()}
    ]


@pytest.mark.parametrize(
    ("fields", "test"),
    [
        ({}, lambda image: True),
        ({"tags": ["team=a"]}, lambda image: has(image, "team=a")),
        ({"tags": ["team"]}, lambda image: has(image, "team")),
        ({"tags": ["team=a", "stage=b"]}, lambda image: len(has(image, "team=a", "stage=b")) == 2),
        ({"any_tags": ["team=a", "rare"]}, lambda image: has(image, "team=a", "rare")),
        ({"not_tags": ["team=a", "rare"]}, lambda image: not has(image, "team=a", "rare")),
        ({"tags": ["team"], "any_tags": ["rare=a", "rare=b"], "not_tags": ["stage=a"]},
            lambda image: has(image, "team") and has(image, "rare") and not has(image, "stage=a")),
        ({"statuses": ["killed", "saving"]}, lambda image: image["status"] in ("killed", "saving")),
        ({"types": ["data"]}, lambda image: image["type"] == "data"),
        ({"system": "linux"}, lambda image: image["properties"]["os_type"] == "Linux"),
        ({"system": "Debian"}, lambda image: image["properties"]["os_version"] == "Debian 12"),
        ({"system": "%"}, lambda image: False),
        ({"family": "web"}, lambda image: image["family"] == "web"),
        ({"name": "web-1"}, lambda image: image["name"] == "web-1"),
        ({"name": "web*"}, lambda image: image["name"].startswith("web")),
        ({"name": "*-?"}, lambda image: True),
        ({"name": "*eb-3"}, lambda image: image["name"][1:] == "eb-3"),
        ({"name": "db_*"}, lambda image: image["name"].startswith("db_")),
        ({"name": "db%*"}, lambda image: image["name"].startswith("db%")),
        ({"name": "db?*"}, lambda image: image["name"].startswith("db")),
        ({"name": "%"}, lambda image: False),
    ],
)  # fmt: skip
def test_a_filter_lets_through_what_it_says(shared_to, crowd, fields, test):
    there = expected(crowd, lambda image: test(image) and (image["status"] != "deleted" or "statuses" in fields))

    assert names(shared_to, **fields) == there


def test_deleted_images_are_listed_where_they_are_asked_for(shared_to, crowd):
    assert names(shared_to, statuses=["deleted"]) == expected(crowd, lambda image: image["status"] == "deleted")


@pytest.mark.parametrize("direction", ["", ":desc"])
@pytest.mark.parametrize("order", listing.SORTS)
def test_pages_tile_the_list_in_every_order(shared_to, crowd, order, direction):
    rows, marker = [], ""
    while page := listing.page(shared_to.catalog, Filter(), order + direction, 5, marker):
        rows += page
        marker = str(page[-1]["id"])

    keys = {
        "created_at": lambda row: row["created_at"],
        "name": lambda row: row["name"],
        "size": lambda row: row["stored_size"] or 0,
        "status": lambda row: (row["status"], row["created_at"]),
    }
    ordered = sorted(rows, key=lambda row: (keys[order](row), row["id"]), reverse=bool(direction))
    assert [row["name"] for row in rows] == [row["name"] for row in ordered]
    assert sorted(row["name"] for row in rows) == sorted(expected(crowd, lambda image: image["status"] != "deleted"))


def test_each_image_comes_with_its_tags(shared_to, crowd):
    rows = listing.page(shared_to.catalog, Filter())

    assert {row["name"]: row["tags"] for row in rows} == {row["name"]: crowd[row["name"]]["tags"] for row in rows}


@pytest.mark.parametrize(
    ("sort", "limit"), [("color", 5), ("name:down", 5), ("name", 0), ("name", 1001), ("id; --", 5)]
)
def test_a_page_that_cannot_be_is_refused(shared_to, sort, limit):
    with pytest.raises(listing.PageError):
        listing.page(shared_to.catalog, Filter(), sort, limit)


@pytest.mark.parametrize("marker", ["x", "web-1", "00000000-0000-4000-8000-000000000000"])
def test_a_marker_that_is_no_image_is_refused(shared_to, crowd, marker):
    with pytest.raises(listing.MarkerError):
        listing.page(shared_to.catalog, Filter(), "name", 5, marker)


def test_members_find_what_is_shared_by_the_owners_tags(to, catalog_url):
    with operator(catalog_url) as connection:
        create_project(connection, "other")
    shared = operations.image_row(to, "theirs", {"team": "web"})
    operations.image_row(to, "secret", {"team": "web"})
    with operator(catalog_url) as connection:
        other = "INSERT INTO members (image_id, project_id, status) SELECT %s, id, 'accepted' FROM projects"
        connection.execute(f"{other} WHERE name = 'other'", (shared,))
    with Catalog(catalog_url, "other") as member:
        (row,) = listing.page(member, Filter(tags=["team=web"]))
        assert (row["name"], row["own"], row["owner"], row["tags"]) == ("theirs", False, "default", {"team": "web"})
        assert listing.page(member, Filter(tags=["team=web"], whose="own")) == []
        assert listing.page(member, Filter(not_tags=["team"])) == []
        assert [row["name"] for row in listing.page(member, Filter(whose="shared"), "name")] == ["theirs"]
        with pytest.raises(listing.MarkerError):
            listing.page(member, Filter(), "name", 5, str(UUID(int=row["id"].int ^ 1)))
    assert {row["name"] for row in listing.page(to.catalog, Filter(whose="own"))} == {"theirs", "secret"}


def rows_visited(plan):
    """The rows that all scans of images read, with those that a filter threw away."""
    visited = 0
    if plan.get("Relation Name") == "images" and plan["Node Type"] != "Bitmap Heap Scan":
        thrown = plan.get("Rows Removed by Filter", 0) + plan.get("Rows Removed by Index Recheck", 0)
        visited = (plan["Actual Rows"] + thrown) * plan["Actual Loops"]
    return visited + sum(rows_visited(child) for child in plan.get("Plans", []))


@pytest.mark.parametrize("direction", ["", ":desc"])
@pytest.mark.parametrize("order", listing.SORTS)
def test_a_page_at_any_depth_reads_the_rows_of_a_page(shared_to, many, order, direction):
    with shared_to.catalog.transaction() as connection:
        query = listing._page_query(connection, Filter(), order + direction, 20, many)
        explained = connection.execute(b"EXPLAIN (ANALYZE, FORMAT JSON) " + query.as_bytes(connection)).fetchone()
    (plan,) = next(iter(explained.values()))

    assert rows_visited(plan["Plan"]) <= 4 * 20
    assert json.dumps(plan).count('"Seq Scan"') == 0


@pytest.mark.parametrize("digits", [4, 8, 13, 35])
def test_a_prefix_of_an_id_is_found_by_the_primary_key(shared_to, many, digits):
    """Under row-level security, among thousands of images, and as the planner chooses."""
    bounds = images._ids_with(many[:digits])
    with shared_to.catalog.transaction() as connection:
        query = b"EXPLAIN (ANALYZE, FORMAT JSON) " + images._BY_PREFIX.as_bytes(connection)
        (plan,) = next(iter(connection.execute(query, bounds).fetchone().values()))

    assert "images_pkey" in json.dumps(plan)
    assert json.dumps(plan).count('"Seq Scan"') == 0
    assert rows_visited(plan["Plan"]) <= 10
    assert str(images.find(shared_to.catalog, many[:13])["id"]) == many


@pytest.fixture(scope="module")
def many(shared_to, crowd):
    """Thousands of images more; the id of one in their middle."""
    with operator(shared_to.settings.catalog_url) as connection:
        connection.execute(
            """INSERT INTO images (project_id, name, type, source, request, status, stored_size, created_at)
            SELECT p.id, 'many-' || n, 'system', '', '{}', CASE n % 9 WHEN 0 THEN 'killed' ELSE 'active' END, n % 900,
            now() - n * '1 second'::interval FROM generate_series(1, 5000) n, projects p WHERE p.name = 'default'"""
        )
        image = connection.execute("SELECT id FROM images WHERE name = 'many-2501'").fetchone()["id"]
        connection.execute("ANALYZE")
    return str(image)
