"""The catalog: schema, projects and their rows, statuses, leases, references."""

import subprocess
import sys
import threading
from uuid import uuid4

import psycopg
import pytest

from darkroom import lifecycle, packs
from darkroom.catalog import (
    Catalog,
    CatalogRefusedError,
    CatalogUnavailableError,
    ProjectMissingError,
    create_project,
    images,
    uploads,
)
from darkroom.errors import DarkroomError

COLUMNS = {"type": "system", "source": "/x", "request": {}}
OTHER_PROJECTS_TABLES = [
    "images",
    "tags",
    "wraps",
    "disks",
    "scopes",
    "packs",
    "chunks",
    "refs",
    "leases",
    "runs",
    "events",
]


@pytest.fixture
def catalog(catalog_url):
    with Catalog(catalog_url, "default") as found:
        yield found


@pytest.fixture
def operator(catalog_url):
    with Catalog(catalog_url, None) as found:
        yield found


@pytest.fixture
def stranger(catalog_url, operator):
    with operator.transaction() as connection:
        create_project(connection, "other")
    with Catalog(catalog_url, "other") as found:
        yield found


def new_image(catalog, name="one", lease=True):
    with catalog.transaction() as connection:
        image = images.create(connection, {"name": name, **COLUMNS}, {"team": "web"})
        if lease:
            uploads.take_lease(connection, image)
    return image


def new_scope(catalog):
    with catalog.transaction() as connection:
        return connection.execute("INSERT INTO scopes DEFAULT VALUES RETURNING id").fetchone()["id"]


def stored_pack(catalog, image, scope, names):
    pack = packs.Pack(uuid4())
    for name in names:
        pack.add(name, b"data")
    uploads.begin_pack(catalog, image, scope, pack.id)
    first = len(uploads.finished_runs(catalog, image, 0))
    uploads.finish_run(catalog, image, uploads.Run(0, first, 1, pack.size), b"record", pack)
    return pack.id


def test_migrating_again_or_at_once_changes_nothing(catalog_url):
    def open_and_close():
        Catalog(catalog_url, "default").close()

    threads = [threading.Thread(target=open_and_close) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with psycopg.connect(catalog_url) as connection:
        assert connection.execute("SELECT count(*) FROM darkroom.projects").fetchone() == (1,)
        assert connection.execute("SELECT count(*) FROM darkroom.migrations").fetchone()[0] >= 1


def test_a_schema_newer_than_the_program_is_refused(catalog, catalog_url):
    with psycopg.connect(catalog_url) as connection:
        connection.execute("INSERT INTO darkroom.migrations VALUES (99, 'future')")

    with pytest.raises(CatalogRefusedError, match="newer"):
        Catalog(catalog_url, "default")


def test_every_table_with_a_projects_data_has_row_level_security(operator):
    with operator.transaction() as connection:
        rows = connection.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'darkroom'::regnamespace "
            "AND NOT relrowsecurity"
        ).fetchall()

    assert [row["relname"] for row in rows] == ["migrations"]


def test_hand_written_sql_cannot_see_or_change_another_projects_rows(catalog, stranger):
    image, scope = new_image(catalog), new_scope(catalog)
    stored_pack(catalog, image, scope, [b"c" * 32])
    with catalog.transaction() as connection:
        connection.execute("INSERT INTO disks VALUES (%s, 0, 1)", (image,))
        connection.execute("INSERT INTO wraps (image_id, key_name, wrapped) VALUES (%s, 'k', 'w')", (image,))
        images.record_event(connection, "import", image, "started")

    for table in OTHER_PROJECTS_TABLES:
        with stranger.transaction() as connection:
            assert connection.execute(f"SELECT * FROM {table}").fetchall() == []
        with catalog.transaction() as connection:
            assert connection.execute(f"SELECT * FROM {table}").fetchall() != []
    for statement in (
        "UPDATE images SET name = 'stolen'",
        "UPDATE packs SET status = 'dead'",
        "UPDATE leases SET holder = 'me'",
        "DELETE FROM refs",
        "DELETE FROM tags",
    ):
        with stranger.transaction() as connection:
            assert connection.execute(statement).rowcount == 0
    for statement in (
        "INSERT INTO tags VALUES (%s, 'k', 'v')",
        "INSERT INTO refs SELECT %s, 1",
        "INSERT INTO leases VALUES (%s, 'me', now(), now())",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege), stranger.transaction() as connection:
            connection.execute(statement, (image,))
    with pytest.raises(images.ImageMissingError):
        images.get(stranger, image)
    with pytest.raises(images.ImageMissingError):
        images.find(stranger, "one")


def test_a_project_cannot_write_as_another_or_touch_its_audit_log(catalog, stranger, operator):
    with operator.transaction() as connection:
        other = connection.execute("SELECT id FROM projects WHERE name = 'other'").fetchone()["id"]
    with catalog.transaction() as connection:
        images.record_event(connection, "import", None, "done")

    for statement in (
        f"INSERT INTO images (name, type, source, request, project_id) VALUES ('x', 'system', '', '{{}}', '{other}')",
        f"INSERT INTO events (operation, outcome, project_id) VALUES ('x', 'done', '{other}')",
        "INSERT INTO events (operation, outcome, actor) VALUES ('x', 'done', 'somebody')",
        "UPDATE events SET outcome = 'failed'",
        "DELETE FROM events",
        "DELETE FROM images",
        "UPDATE projects SET name = 'x'",
        "CREATE TABLE mine (x int)",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege), catalog.transaction() as connection:
            connection.execute(statement)


def test_projects_that_do_not_exist_are_named(catalog_url):
    with pytest.raises(ProjectMissingError, match="nowhere"):
        Catalog(catalog_url, "nowhere")


def test_a_catalog_that_is_down_or_refuses_us_is_named(catalog_url):
    with pytest.raises(CatalogUnavailableError) as caught:
        Catalog("host=/nowhere dbname=x", "default")
    assert caught.value.retryable
    parts = psycopg.conninfo.conninfo_to_dict(catalog_url)
    with pytest.raises(CatalogRefusedError) as caught:
        Catalog(psycopg.conninfo.make_conninfo(catalog_url, password="wrong"), "default")
    assert parts["password"] not in str(caught.value)


def test_names_are_unique_until_the_image_is_killed(catalog):
    image = new_image(catalog)
    with pytest.raises(images.NameTakenError):
        new_image(catalog)
    with catalog.transaction() as connection:
        images.move(connection, image, "killed", failure={"code": "x"})

    assert new_image(catalog) != image


def test_an_image_is_found_by_id_prefix_or_name(catalog):
    image = new_image(catalog)

    for reference in (str(image), str(image)[:8], str(image).upper(), "one"):
        assert images.find(catalog, reference)["id"] == image
    for reference in ("On", "two", str(image)[:3], "%", "____", str(uuid4())):
        with pytest.raises(images.ImageMissingError):
            images.find(catalog, reference)


BEGINNINGS = """abcd ABCDEF01- abcdef01-2345-6 abcdef012345 abcdef01-2345-6789-abcd-ef01234567
    abcdef01-2345-6789-abcd-ef0123456789 abcdef0123456789abcdef0123456789"""
OTHERS = """abc abc- abcd- abcdef012345- -abcd abcdef01--2345 abcdef02 abcdef00ffff
    abcdef0123456789abcdef01234567890 abcg ----"""


def test_a_prefix_is_the_beginning_of_an_id_with_its_dashes_or_without_any(catalog, operator):
    with operator.transaction() as connection:
        connection.execute(
            "INSERT INTO images (id, name, type, source, request, project_id) "
            "SELECT 'abcdef01-2345-6789-abcd-ef0123456789', 'one', 'system', '', '{}', id FROM projects"
        )

    for prefix in BEGINNINGS.split():
        assert images.find(catalog, prefix)["name"] == "one", prefix
    for prefix in OTHERS.split():
        with pytest.raises(images.ImageMissingError):
            images.find(catalog, prefix)


def test_a_prefix_of_two_images_is_ambiguous(catalog, operator):
    with operator.transaction() as connection:
        for name in ("a", "b"):
            connection.execute(
                "INSERT INTO images (id, name, type, source, request, project_id) "
                "SELECT %s, %s, 'system', '', '{}', id FROM projects",
                (f"abcdef00-0000-0000-0000-00000000000{'1' if name == 'a' else '2'}", name),
            )

    with pytest.raises(images.ImageAmbiguousError):
        images.find(catalog, "abcdef")


def test_only_legal_moves_are_made(catalog):
    """Every pair of statuses, against the one dict that says which moves are legal."""
    for start in lifecycle.MOVES:
        for target in lifecycle.MOVES:
            image = new_image(catalog, name=f"{start}-{target}")
            with catalog.transaction() as connection:
                connection.execute("UPDATE images SET status = %s WHERE id = %s", (start, image))
            if target in lifecycle.MOVES[start]:
                with catalog.transaction() as connection:
                    images.move(connection, image, target)
                assert images.get(catalog, image)["status"] == target
            elif target != start:
                with pytest.raises(images.StatusError), catalog.transaction() as connection:
                    images.move(connection, image, target)
                assert images.get(catalog, image)["status"] == start


def test_a_lease_is_for_one_living_process(catalog, monkeypatch):
    image = new_image(catalog)
    host, boot, _, _, namespace = uploads.holder().split(" ")
    for other, taken in [
        (f"{host} {boot} 1 {uploads._started(1)} {namespace}", False),
        (f"{host} {boot} 1 12345 {namespace}", True),
        (f"{host} {boot} 1 12345 1", False),
        (f"{host} {boot} 1 12345", True),  # as an earlier version wrote it
        (f"{host} another-boot 1 {uploads._started(1)} {namespace}", True),
        (f"elsewhere {boot} 1 12345 {namespace}", False),
    ]:
        with catalog.transaction() as connection:
            connection.execute("UPDATE leases SET holder = %s, expires_at = now() + interval '1 minute'", (other,))
        if taken:
            with catalog.transaction() as connection:
                uploads.take_lease(connection, image)
        else:
            with pytest.raises(uploads.LeaseHeldError), catalog.transaction() as connection:
                uploads.take_lease(connection, image)
            with pytest.raises(uploads.LeaseLostError), catalog.transaction() as connection:
                uploads.renew_lease(connection, image)


def test_of_a_process_in_another_container_of_the_same_host_nobody_says_that_it_is_dead():
    """Both have the host's name and boot, and neither sees the other's processes."""
    ours = uploads.holder()
    code = f"from darkroom.catalog import uploads; print(uploads.holder(), uploads.is_dead({ours!r}))"
    unshare = ["unshare", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    said = subprocess.run([*unshare, sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    theirs, _, judged = said.strip().rpartition(" ")

    assert theirs.split(" ")[:2] == ours.split(" ")[:2]
    assert judged == "False"
    assert not uploads.is_dead(theirs)


def test_an_expired_lease_goes_to_whoever_asks(catalog):
    image = new_image(catalog)
    with catalog.transaction() as connection:
        connection.execute("UPDATE leases SET holder = 'elsewhere b 1 2', expires_at = now() - interval '1 second'")
    with catalog.transaction() as connection:
        uploads.take_lease(connection, image)
        uploads.renew_lease(connection, image)


def test_writes_of_an_upload_that_lost_its_lease_are_fenced(catalog):
    image, scope = new_image(catalog), new_scope(catalog)
    with catalog.transaction() as connection:
        connection.execute("UPDATE leases SET holder = 'elsewhere b 1 2'")

    with pytest.raises(uploads.LeaseLostError):
        uploads.begin_pack(catalog, image, scope, uuid4())
    with pytest.raises(uploads.LeaseLostError):
        uploads.finish_run(catalog, image, uploads.Run(0, 0, 1, 0), b"", None)
    assert uploads.finished_runs(catalog, image, 0) == []


def test_found_chunks_are_referenced_in_the_same_moment(catalog, operator):
    owner, reader, scope = new_image(catalog), new_image(catalog, "two"), new_scope(catalog)
    pack = stored_pack(catalog, owner, scope, [b"a" * 32, b"b" * 32])

    found = uploads.find_chunks(catalog, reader, scope, [b"a" * 32, b"x" * 32])
    assert found == {b"a" * 32: uploads.Place(pack, 0, 4)}
    with operator.transaction() as connection:
        refs = connection.execute("SELECT image_id FROM refs").fetchall()
    assert {row["image_id"] for row in refs} == {owner, reader}


@pytest.mark.parametrize("status", ["writing", "dead"])
def test_chunks_of_a_pack_that_is_not_stored_are_not_found(catalog, operator, status):
    image, scope = new_image(catalog), new_scope(catalog)
    stored_pack(catalog, image, scope, [b"a" * 32])
    with operator.transaction() as connection:
        connection.execute("UPDATE packs SET status = %s", (status,))

    assert uploads.find_chunks(catalog, image, scope, [b"a" * 32]) == {}


def test_chunks_are_not_found_in_another_scope(catalog):
    image, scope = new_image(catalog), new_scope(catalog)
    stored_pack(catalog, image, scope, [b"a" * 32])

    assert uploads.find_chunks(catalog, image, scope + 1, [b"a" * 32]) == {}


def test_a_referenced_pack_cannot_be_deleted_by_anybody(catalog, operator):
    image, scope = new_image(catalog), new_scope(catalog)
    stored_pack(catalog, image, scope, [b"a" * 32])

    with pytest.raises(psycopg.errors.ForeignKeyViolation), operator.transaction() as connection:
        connection.execute("DELETE FROM packs")


def test_a_finding_upload_and_a_collector_exclude_each_other(catalog, operator):
    """The collector's lock on a pack makes a finder wait; once it is dead the finder does not rely on it."""
    owner, reader, scope = new_image(catalog), new_image(catalog, "two"), new_scope(catalog)
    stored_pack(catalog, owner, scope, [b"a" * 32])
    found = []
    with operator.transaction() as connection:
        connection.execute("SELECT FROM packs FOR UPDATE")
        connection.execute("UPDATE packs SET status = 'dead'")
        finder = threading.Thread(target=lambda: found.append(uploads.find_chunks(catalog, reader, scope, [b"a" * 32])))
        finder.start()
        finder.join(0.3)
        assert finder.is_alive()
    finder.join()

    assert found == [{}]


def test_packs_begun_and_not_finished_are_let_go(catalog, operator):
    image, scope = new_image(catalog), new_scope(catalog)
    kept = stored_pack(catalog, image, scope, [b"a" * 32])
    uploads.begin_pack(catalog, image, scope, uuid4())

    uploads.begin(catalog, image, 0)
    with operator.transaction() as connection:
        rows = connection.execute("SELECT p.uuid FROM refs JOIN packs p ON p.id = pack_id").fetchall()
    assert [row["uuid"] for row in rows] == [kept]


def test_a_lease_is_held_once_for_a_step_within_a_step(catalog):
    image = new_image(catalog)
    found = []

    def other():
        with pytest.raises(uploads.LeaseHeldError) as caught, uploads.lease(catalog, image):
            pass
        found.append(caught.value.code)

    with uploads.lease(catalog, image):
        with uploads.lease(catalog, image):
            pass
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    with uploads.lease(catalog, image):
        pass

    assert found == ["in-progress"]


def test_records_of_runs_come_in_order_however_many_there_are(catalog):
    image = new_image(catalog)
    for number in reversed(range(33)):
        uploads.finish_run(catalog, image, uploads.Run(0, number, 1, 0), b"%d" % number, None)

    assert list(uploads.run_records(catalog, image, 0)) == [(number, b"%d" % number) for number in range(33)]
    assert list(uploads.run_records(catalog, image, 1)) == []


def test_errors_of_the_catalog_are_darkrooms_own(operator):
    """Closed in the middle, as when the server goes away: a named error that says to try again."""
    with pytest.raises(DarkroomError) as caught, operator.transaction() as connection:
        connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    assert caught.value.code == "catalog-unavailable"
    with operator.transaction() as connection:
        assert connection.execute("SELECT 1 AS one").fetchone() == {"one": 1}


def test_who_asks_for_an_image_that_just_becomes_active_finds_it_active(catalog):
    image = new_image(catalog)
    with catalog.transaction() as connection:
        images.move(connection, image, "saving")
    found = []

    def ask():
        with catalog.transaction() as connection:
            found.append(images.unfinished(connection, "one"))

    with catalog.transaction() as connection:
        uploads.renew_lease(connection, image)
        asking = threading.Thread(target=ask)
        asking.start()
        asking.join(0.3)
        assert asking.is_alive()
        images.move(connection, image, "active")  # neither waits for what the other holds
        uploads.forget(connection, image)
    asking.join()

    assert [row["status"] for row in found] == ["active"]


def test_a_connection_that_died_while_it_was_idle_is_replaced(catalog, operator):
    (row,) = catalog.rows("SELECT pg_backend_pid() AS pid")
    operator.rows("SELECT pg_terminate_backend(%s, 5000)", (row["pid"],))  # waits until it has ended

    with catalog.transaction() as connection:
        found = connection.execute("SELECT pg_backend_pid() AS pid").fetchone()

    assert found["pid"] != row["pid"]
