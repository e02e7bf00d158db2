"""Projects: accounts of the catalog of their own, and what hand-written SQL can do with one."""

import dataclasses
import threading

import psycopg
import pytest
from psycopg.rows import dict_row

from darkroom import collect, deleting, metrics, projects, reap, reporting, sharing, systems
from darkroom.catalog import (
    OPERATOR,
    Catalog,
    CatalogRefusedError,
    ProjectForbiddenError,
    ProjectMissingError,
    images,
    listing,
)
from darkroom.settings import Settings
from tests import operations
from tests.conftest import make_disk

TABLES = [
    "scopes", "images", "tags", "wraps", "disks", "packs", "chunks", "refs", "leases", "runs", "events", "holds",
    "inboxes", "members", "trusts", "sidecars", "totals",
]  # fmt: skip


@pytest.fixture
def operator(to, catalog_url):
    with Catalog(catalog_url, None) as found:
        yield found


@pytest.fixture
def account(operator, catalog_url):
    """A function that makes a project, unless it is there, and gives the DSN of its account."""

    def make(name):
        if name not in [row["name"] for row in projects.listed(operator)]:
            projects.create(operator, name)
        return projects.credentials(operator, catalog_url, name)

    return make


@pytest.fixture
def image(to, raw_disk):
    return operations.import_image(to, raw_disk, key="gold", tags={"team": "web"})


@pytest.fixture
def full(to, image, raw_disk, operator):
    """A row of the project `default` in every table: beside the image one that is not finished, a hold, and trust."""
    operations.import_image(to, raw_disk, name="two", until="upload_disk")
    with operator.transaction() as connection:
        connection.execute("INSERT INTO projects (name, role_name) VALUES ('third', 'nobody')")
    with to.catalog.transaction() as connection:
        connection.execute("INSERT INTO holds (image_id, holder) VALUES (%s, gen_random_uuid())", (image,))
        connection.execute(
            "INSERT INTO members (image_id, project_id) VALUES (%s, (SELECT id FROM recipient('third')))", (image,)
        )
    sharing.trust(to.catalog, "third", trusted=True)
    return image


def connect(dsn):
    return psycopg.connect(dsn, row_factory=dict_row, options="-c search_path=darkroom", autocommit=True)


def test_an_account_acts_as_its_project_and_as_no_other(to, image, account, raw_disk, tmp_path):
    own, other = account("default"), account("other")

    with systems.open_systems(dataclasses.replace(Settings(), catalog_url=own)) as found:
        assert found.settings.project == "default"
        assert images.find(found.catalog, "one")["own"]
        operations.import_image(found, raw_disk, name="by-itself", key="gold")
        operations.export_image(found, image, tmp_path / "out.raw")
        assert (tmp_path / "out.raw").read_bytes() == raw_disk.read_bytes()
    with systems.open_systems(dataclasses.replace(Settings(), catalog_url=other)) as found:
        assert listing.page(found.catalog, listing.Filter()) == []
        operations.import_image(found, raw_disk, name="one")
    for dsn, project in ((other, "default"), (other, "nowhere"), (own, "other"), (own, None)):
        with pytest.raises(ProjectForbiddenError):
            Catalog(dsn, project)


def test_new_credentials_end_the_ones_before(account):
    old = account("acme")
    new = account("acme")

    with Catalog(new, "acme"), pytest.raises(CatalogRefusedError):
        Catalog(old, "acme")


def test_a_password_is_told_to_the_caller_alone(account, operator, catalog_url):
    password = psycopg.conninfo.conninfo_to_dict(account("acme"))["password"]

    with operator.transaction() as connection:
        text = str(connection.execute("SELECT * FROM events").fetchall())
        text += str(connection.execute("SELECT rolpassword FROM pg_authid WHERE rolpassword IS NOT NULL").fetchall())
    assert "credentials" in text
    assert "SCRAM-SHA-256$" in text
    assert password not in text


def test_an_account_does_not_migrate(account, operator):
    dsn = account("acme")
    with operator.transaction() as connection:
        connection.execute("DELETE FROM migrations WHERE number = 12")

    with pytest.raises(CatalogRefusedError, match="migrations of this program"):
        Catalog(dsn, "acme")


def test_credentials_of_a_project_that_does_not_exist_are_refused(operator, catalog_url):
    with pytest.raises(ProjectMissingError, match="nowhere"):
        projects.credentials(operator, catalog_url, "nowhere")


def test_the_operators_account_sees_all_and_makes_no_roles(to, full, operator, catalog_url):
    dsn = projects.credentials(operator, catalog_url, "")

    with Catalog(dsn, None) as found:
        assert [row["name"] for row in projects.listed(found)] == ["default", "third"]
        assert images.get(found, full)["own"]
        assert operations.collector_plan(to, dsn).objects == {}
        with found.transaction() as connection:
            for table in TABLES:
                assert connection.execute(f"SELECT * FROM {table}").fetchall(), table
            assert connection.execute("SELECT sidecar(%s) AS record", (full,)).fetchone()["record"]
            images.record_event(connection, "collect", None, "done")
            images.record_event(connection, "reap", full, "done")
            connection.execute("DELETE FROM events WHERE operation = 'import'")
        with pytest.raises(ProjectForbiddenError):
            projects.create(found, "more")
        with pytest.raises(psycopg.errors.InsufficientPrivilege), found.transaction() as connection:
            connection.execute("ALTER TABLE images ADD COLUMN mine text")
    with to.catalog.transaction() as connection:
        seen = [row["operation"] for row in connection.execute("SELECT operation FROM events ORDER BY id")]
    assert seen == ["trust", "reap"]
    with pytest.raises(ProjectForbiddenError):
        Catalog(dsn, "default")
    with pytest.raises(ProjectForbiddenError), systems.open_systems(dataclasses.replace(Settings(), catalog_url=dsn)):
        pass


def test_hand_written_sql_sees_and_changes_nothing_of_another_project(full, account, operator):
    with operator.transaction() as connection:
        before = {table: connection.execute(f"SELECT * FROM {table}").fetchall() for table in TABLES}
        columns = connection.execute(
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'darkroom'"
        ).fetchall()

    with connect(account("stranger")) as connection:
        for table in TABLES:
            assert before[table], table
            if table not in ("events", "totals"):
                assert connection.execute(f"SELECT * FROM {table}").fetchall() == [], table
            attempt(connection, f"DELETE FROM {table}")
            for column in [row["column_name"] for row in columns if row["table_name"] == table]:
                attempt(connection, f"UPDATE {table} SET {column} = {column}")
        assert {row["operation"] for row in connection.execute("SELECT * FROM events")} == {
            "create-project",
            "credentials",
        }
        totals = connection.execute("SELECT labels FROM totals").fetchall()
        assert {row["labels"][0] for row in totals} == {"create-project", "credentials"}
        assert connection.execute("SELECT name FROM projects").fetchall() == [{"name": "stranger"}]
        for function in ("incoming()", "outgoing()", "trusted()"):
            assert connection.execute(f"SELECT * FROM {function}").fetchall() == []
        assert connection.execute("SELECT shared_images() AS found").fetchone() == {"found": []}
        for role in ("darkroom_operator", "darkroom"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"SET ROLE {role}")
        connection.execute("SET ROLE darkroom_project")
        assert connection.execute("SELECT * FROM images").fetchall() == []
    with operator.transaction() as connection:
        for table in TABLES:
            assert [row for row in connection.execute(f"SELECT * FROM {table}") if row in before[table]] == before[
                table
            ]


def attempt(connection, statement):
    """It is refused, or changes no row."""
    try:
        changed = connection.execute(statement).rowcount
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.GeneratedAlways):
        return
    assert changed == 0, statement


def test_rows_that_point_at_another_projects_are_refused(full, account, operator):
    with operator.transaction() as connection:
        ids = connection.execute(
            """SELECT i.id AS image, i.project_id AS owner, p.id AS pack, i.scope_id AS scope
            FROM images i JOIN refs r ON r.image_id = i.id JOIN packs p ON p.id = r.pack_id WHERE i.name = 'one'"""
        ).fetchone()

    with connect(account("stranger")) as connection:
        image, scope = own_image(connection)
        for statement in (
            "INSERT INTO refs VALUES (%(mine)s, %(pack)s)",
            "INSERT INTO refs VALUES (%(image)s, %(pack)s)",
            "INSERT INTO chunks VALUES (%(my_scope)s, '\\x00', %(pack)s, 0, 1)",
            "INSERT INTO chunks VALUES (%(scope)s, '\\x00', %(pack)s, 0, 1)",
            "INSERT INTO packs (uuid, scope_id) VALUES (gen_random_uuid(), %(scope)s)",
            "UPDATE images SET scope_id = %(scope)s",
            "UPDATE images SET project_id = %(owner)s",
            "UPDATE images SET id = gen_random_uuid()",
            "UPDATE packs SET scope_id = %(scope)s",
            "INSERT INTO tags VALUES (%(image)s, 'mine', '')",
            "INSERT INTO disks VALUES (%(image)s, 9, 1)",
            "INSERT INTO leases VALUES (%(image)s, 'me', now(), now())",
            "INSERT INTO runs VALUES (%(image)s, 0, 0, 0, 0, '')",
            "INSERT INTO wraps (image_id, key_name, wrapped) VALUES (%(image)s, 'k', '')",
            "INSERT INTO holds (image_id, holder) VALUES (%(image)s, gen_random_uuid())",
            "INSERT INTO members (image_id, project_id) VALUES (%(image)s, current_project())",
            "INSERT INTO members (image_id, project_id) VALUES (%(image)s, %(owner)s)",
            "INSERT INTO inboxes VALUES (%(owner)s, 'k', '', '')",
            "INSERT INTO trusts VALUES (%(owner)s, current_project())",
            "INSERT INTO events (project_id, operation, outcome) VALUES (%(owner)s, 'x', 'done')",
            "INSERT INTO servers (id, name, host, image_id, cpus, memory, boot_mode, network, request)"
            " VALUES (gen_random_uuid(), 'mine', 'h', %(mine)s, 1, 1, 'bios', '', '{}')",
            "UPDATE servers SET id = gen_random_uuid()",
            "UPDATE server_disks SET image_id = %(image)s",
        ):
            with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.CheckViolation)):
                connection.execute(statement, {**ids, "mine": image, "my_scope": scope})
        assert connection.execute("SELECT * FROM locate(%s, '\\x00')", (ids["image"],)).fetchall() == []


def own_image(connection):
    image = connection.execute(
        "INSERT INTO images (name, type, source, request) VALUES ('mine', 'data', '', '{}') RETURNING id"
    ).fetchone()["id"]
    scope = connection.execute("INSERT INTO scopes DEFAULT VALUES RETURNING id").fetchone()["id"]
    connection.execute("INSERT INTO packs (uuid, scope_id) VALUES (gen_random_uuid(), %s)", (scope,))
    return image, scope


def test_a_stranger_cannot_tell_an_image_from_an_id_that_never_was(full, account):
    """Every statement that names the image ends as it does for another id: policies answer before keys do."""
    with connect(account("stranger")) as connection:
        for statement in (
            "SELECT * FROM images WHERE id = %s",
            "INSERT INTO images (id, name, type, source, request) VALUES (%s, 'x', 'data', '', '{}')",
            "INSERT INTO tags VALUES (%s, 'a', '')",
            "INSERT INTO wraps (image_id, key_name, wrapped) VALUES (%s, 'k', '')",
            "INSERT INTO holds (image_id, holder) VALUES (%s, gen_random_uuid())",
            "INSERT INTO members (image_id, project_id) VALUES (%s, current_project())",
            "INSERT INTO events (operation, image_id, outcome) VALUES ('x', %s, 'done')",
            "SELECT * FROM locate(%s, '\\x00')",
            "SELECT is_held(%s)",
            "SELECT owns(%s)",
            "SELECT sidecar(%s)",
        ):
            said = [said_of(connection, statement, image) for image in (full, "00000000-0000-4000-8000-000000000000")]
            assert said[0] == said[1], statement


def said_of(connection, statement, image):
    try:
        cursor = connection.execute(statement, (image,))
        return cursor.rowcount, cursor.fetchall() if cursor.description else None
    except psycopg.Error as error:
        return type(error), str(error).replace(image, "ID")


def test_a_project_appends_to_its_audit_log_and_cannot_change_it(account):
    with connect(account("acme")) as connection:
        connection.execute("INSERT INTO events (operation, outcome) VALUES ('mine', 'done')")
        row = connection.execute("SELECT * FROM events WHERE operation = 'mine'").fetchone()
        assert row["actor"] == connection.info.user

        for statement in (
            "UPDATE events SET outcome = 'failed'",
            "DELETE FROM events",
            "TRUNCATE events",
            "INSERT INTO events (operation, outcome, at) VALUES ('x', 'done', now())",
            "INSERT INTO events (operation, outcome, actor) VALUES ('x', 'done', 'somebody')",
            "INSERT INTO events (operation, outcome, client) VALUES ('x', 'done', 'somebody')",
            "INSERT INTO events (id, operation, outcome) OVERRIDING SYSTEM VALUE VALUES (1, 'x', 'done')",
            "ALTER TABLE events DISABLE TRIGGER ALL",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


def test_a_member_cannot_answer_for_another_or_share_on(to, full, account, operator):
    first, second = account("first"), account("second")
    with to.catalog.transaction() as connection:
        for project in ("first", "second"):
            connection.execute(
                "INSERT INTO members (image_id, project_id) VALUES (%s, (SELECT id FROM recipient(%s)))",
                (full, project),
            )
        with pytest.raises(psycopg.errors.InsufficientPrivilege), connection.transaction():
            connection.execute(
                "INSERT INTO members (image_id, project_id, status) VALUES (%s, %s, 'accepted')", (full, full)
            )
        assert (
            connection.execute("UPDATE members SET status = 'accepted'").rowcount == 0
        )  # the owner answers for nobody

    with connect(first) as connection:
        assert connection.execute("SELECT * FROM images").fetchall() == []
        assert connection.execute("UPDATE members SET status = 'accepted'").rowcount == 1
        assert [row["name"] for row in connection.execute("SELECT * FROM images")] == ["one"]
        for statement in (
            "DELETE FROM members",
            "UPDATE images SET name = 'stolen'",
            "DELETE FROM tags",
            "UPDATE disks SET virtual_size = 0",
        ):
            assert connection.execute(statement).rowcount == 0
        for statement in (
            "UPDATE members SET project_id = (SELECT id FROM recipient('third'))",
            "INSERT INTO members (image_id, project_id) VALUES (%s, (SELECT id FROM recipient('third')))",
            "INSERT INTO tags VALUES (%s, 'mine', '')",
            "INSERT INTO refs VALUES (%s, 1)",
            "INSERT INTO proofs (image_id, how, reason, seconds, serial, screenshot) VALUES (%s, 'x', '', 1, '', '')",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement, (full,) if "%s" in statement else None)
        assert connection.execute("SELECT sidecar(%s) AS record", (full,)).fetchone() == {"record": None}
        for table in ("refs", "packs", "chunks", "scopes", "leases", "runs", "holds", "wraps", "sidecars"):
            assert connection.execute(f"SELECT * FROM {table}").fetchall() == [], table
    with connect(second) as connection:
        assert [row["status"] for row in connection.execute("SELECT * FROM members")] == ["pending"]
        assert connection.execute("SELECT * FROM images").fetchall() == []


def test_a_reader_finds_chunks_that_moved_and_no_others(to, full, account, operator):
    dsn = account("first")
    with to.catalog.transaction() as connection:
        connection.execute(
            "INSERT INTO members (image_id, project_id) VALUES (%s, (SELECT id FROM recipient('first')))", (full,)
        )
        rows = connection.execute(
            """SELECT c.chunk_id, EXISTS (SELECT FROM refs r WHERE r.pack_id = c.pack_id AND r.image_id = %s) AS used
            FROM chunks c""",
            (full,),
        ).fetchall()
    assert {row["used"] for row in rows} == {True, False}

    with connect(dsn) as connection:

        def found():
            return [
                bool(connection.execute("SELECT * FROM locate(%s, %s)", (full, row["chunk_id"])).fetchall())
                for row in rows
            ]

        assert not any(found())
        connection.execute("UPDATE members SET status = 'accepted'")
        assert found() == [row["used"] for row in rows]
        connection.execute("UPDATE members SET status = 'rejected'")
        assert not any(found())


def test_projects_that_are_created_at_once_each_get_a_role(catalog_url, operator):
    threads = [threading.Thread(target=projects.create, args=(operator, f"p{number}")) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    with operator.transaction() as connection:
        query = "SELECT count(*) AS n FROM projects JOIN pg_roles ON rolname = role_name WHERE name LIKE 'p_'"
        assert connection.execute(query).fetchone() == {"n": 5}


def test_the_operators_account_suffices_for_collection_reaping_purges_and_reports(
    to, operator, catalog_url, raw_disk, tmp_path
):
    dsn = projects.credentials(operator, catalog_url, "")
    kept = operations.import_image(to, raw_disk, key="gold")
    gone = operations.import_image(to, make_disk(tmp_path / "other.raw", size=2 << 20, seed=7), name="gone", key="gold")
    operations.import_image(to, raw_disk, name="given-up", until="upload_disk")
    deleting.delete(to, gone)
    with operator.transaction() as connection:
        connection.execute("UPDATE images SET purge_after = now() - interval '1 second' WHERE status = 'deleted'")
        connection.execute("UPDATE leases SET reap_at = now() - interval '1 second', expires_at = now()")

    with systems.open_systems(dataclasses.replace(Settings(), catalog_url=dsn), operator=True) as found:
        assert [row["outcome"] for row in deleting.purge_due(found)["images"]] == ["purged"]
        assert len(reap.reap(found)["images"]) == 1
        collected = collect.collect(found)
        assert "darkroom_images" in metrics.text(found.catalog, {})
        assert reporting.report(found, str(tmp_path / "all.csv"), (), listing.Filter(), all_projects=True)

    assert collected
    assert operations.collector_plan(to, catalog_url).size == 0
    assert operations.content(to, kept) == raw_disk.read_bytes()
    with to.catalog.transaction() as connection:
        told = {
            row["operation"] for row in connection.execute("SELECT operation FROM events WHERE actor = %s", (OPERATOR,))
        }
    assert "purge" in told
