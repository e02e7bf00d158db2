"""Rebuild: from the store and the keys alone an empty catalog gets back all that there was."""

import dataclasses
import json
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from darkroom import check, collect, crypto, deleting, manifest, packs, rebuilding, sharing, sidecar, upload
from darkroom.catalog import Catalog, create_project, images
from darkroom.errors import UnavailableError
from darkroom.settings import Settings
from darkroom.systems import open_systems
from tests import faults, killing, operations
from tests.test_collect import content_of, disk


@pytest.fixture(autouse=True)
def small_packs(monkeypatch):
    monkeypatch.setattr(packs, "TARGET_SIZE", 4 * 4096)
    monkeypatch.setattr(upload, "_BATCH", 2)


@contextmanager
def opened(catalog_url, *projects):
    """Systems of the operator, then of projects."""
    with ExitStack() as stack:
        operator = stack.enter_context(open_systems(Settings(), operator=True))
        found = [stack.enter_context(open_systems(dataclasses.replace(Settings(), project=name))) for name in projects]
        yield [operator, *found]


def drop(catalog_url):
    with psycopg.connect(catalog_url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA darkroom CASCADE")


def add(to, tmp_path, name, numbers, **options):
    return operations.import_image(to, disk(tmp_path / name, numbers), name=name, **options)


def records(operator):
    """What the catalog knows of each image, with names in place of the ids of projects."""
    found = {}
    with operator.catalog.transaction() as connection:
        for row in connection.execute("SELECT image_record(id) AS record FROM images").fetchall():
            text = json.dumps({name: value for name, value in row["record"].items() if name != "projects"})
            for identity, name in row["record"]["projects"].items():
                text = text.replace(identity, name)
            record = json.loads(text)
            found[record["image"]["id"]] = record
    return found


def index(operator):
    with operator.catalog.transaction() as connection:
        query = """SELECT i.id, p.uuid, r.used, p.size, p.positions FROM refs r JOIN packs p ON p.id = r.pack_id
            JOIN images i ON i.id = r.image_id ORDER BY 1, 2"""
        chunks = "SELECT chunk_id, uuid, position, length FROM chunks c JOIN packs p ON p.id = c.pack_id ORDER BY 1"
        return connection.execute(query).fetchall(), connection.execute(chunks).fetchall()


def rebuild(operator):
    return operations.rebuild(operator)


@pytest.fixture
def world(to, catalog_url, tmp_path):
    """Images of all kinds: plain, encrypted, shared, compacted, protected, deprecated, deactivated, deleted."""
    with Catalog(catalog_url, None) as catalog, catalog.transaction() as connection:
        create_project(connection, "acme")
    with opened(catalog_url, "default", "acme") as (operator, ours, theirs):
        theirs.keys.create("steel")
        contents = {"plain": [1, 2, 0, 3], "sealed": [1, 0, 5, 5], "moved": [4], "off": [1, 6], "bin": [7, 8]}
        ids = {
            name: add(
                ours, tmp_path, name, numbers, key="" if name in ("plain", "off") else "gold", tags={"name": name}
            )
            for name, numbers in contents.items()
        }
        full = add(ours, tmp_path, "full", [4, 11, 12, 13, 14], key="gold")
        contents["theirs"], ids["theirs"] = [1, 2], add(theirs, tmp_path, "theirs", [1, 2], key="steel")
        with ours.catalog.transaction() as connection:
            images.update(connection, UUID(ids["plain"]), family="debian", protected=True, properties={"min_ram": 512})
            images.move(connection, UUID(ids["off"]), "deactivated")
        sharing.share(ours, "sealed", "acme")
        sharing.accept(theirs, "sealed", "steel")
        deleting.delete(ours, "bin")
        deleting.delete(ours, full)
        deleting.purge(ours, full)
        collect.collect(operator)
        yield contents, ids, records(operator), index(operator)


def test_all_images_come_back_bit_identical_with_all_that_is_known_of_them(world, catalog_url, tmp_path, qemu_img):
    contents, ids, known, indexed = world
    drop(catalog_url)
    with opened(catalog_url, "default") as (operator, ours):
        result = rebuild(operator)
        assert (result["images"], result["findings"]) == (len(ids), [])
        assert records(operator) == known
        assert index(operator) == indexed
    with opened(catalog_url, "default", "acme") as (operator, ours, theirs):
        assert images.find(theirs.catalog, "sealed")["own"] is False
        assert operations.content(theirs, ids["sealed"]) == content_of(contents["sealed"])
        deleting.restore(ours, "bin")
        with ours.catalog.transaction() as connection:
            images.move(connection, UUID(ids["off"]), "active")
        for name, numbers in contents.items():
            to = theirs if name == "theirs" else ours
            target = tmp_path / f"{name}.qcow2"
            operations.export_image(to, ids[name], target, "qcow2")
            original = disk(tmp_path / f"{name}.raw", numbers)
            assert "identical" in qemu_img("compare", "-f", "raw", "-F", "qcow2", original, target)
            assert check.check_image(to, images.get(to.catalog, ids[name]), operations.quiet)["findings"] == []
        again = add(ours, tmp_path, "again", contents["sealed"], key="gold")
        assert images.get(ours.catalog, again)["new_size"] == 0
        plan = collect.plan(operator.catalog, operator.store)
        assert (plan.packs, plan.objects, plan.sparse) == ({}, {}, [])


def test_again_changes_nothing(world, catalog_url):
    with opened(catalog_url) as (operator,):
        before = records(operator), index(operator)
        result = rebuild(operator)

        assert (result["packs"], result["images"], result["findings"]) == (0, 0, [])
        assert (records(operator), index(operator)) == before


def test_until_it_is_done_nothing_is_collected(world, catalog_url):
    drop(catalog_url)
    with opened(catalog_url) as (operator,):
        before = operations.objects(operator)
        with pytest.raises(collect.CatalogBehindError):
            collect.collect(operator)
        assert operations.objects(operator) == before


def test_killed_before_a_call_the_next_rebuild_ends_it(world, catalog_url):
    """Before every seventeenth call, each time from nothing; then once more from what a kill left."""
    _, _, known, indexed = world
    with killing.runner() as runner:
        for step in range(0, 1000, 17):
            drop(catalog_url)
            if not runner.killed("tests.operations.rebuild", step=step, operator=True):
                break
            runner.killed("tests.operations.rebuild", step=step // 2, operator=True)
            with opened(catalog_url) as (operator,):
                assert rebuild(operator)["findings"] == []
                assert index(operator) == indexed
                assert records(operator) == known
    assert step > 50


def test_a_manifest_put_in_place_of_an_encrypted_images_own_is_noticed(world, catalog_url, to):
    """By a store that lies: the digest in the sidecar is that of the other manifest."""
    _, ids, _, _ = world
    image = UUID(ids["sealed"])
    key = manifest.object_key(image, 0)
    body = bytearray(to.store.get(key))
    table = manifest.read(to.store, image, 0, None)
    body[table.pages[0].length + 60] ^= 1  # the virtual size, say
    to.store.put(key, [body], len(body))
    record = sidecar.read(to.store, image)
    size = len(body)
    digest = crypto.digest(bytes(body[table.pages[0].length : size - 16]))
    record["disks"][0]["manifest_digest"] = "\\x" + digest.hex()
    text = json.dumps(record).encode()
    to.store.put(sidecar.object_key(image), [text], len(text))
    drop(catalog_url)
    with opened(catalog_url) as (operator,):
        result = rebuild(operator)
        assert any("not proved" in finding for finding in result["findings"])
        row = images.get(operator.catalog, image)
        assert row["status"] == "deactivated"
        assert images.disks(operator.catalog, image)[0]["manifest_digest"] is None
        assert collect.plan(operator.catalog, operator.store).packs == {}


def test_without_its_key_an_image_comes_back_deactivated_and_keeps_its_data(world, catalog_url, to):
    contents, ids, _, _ = world
    file = Path(to.keys.url)
    whole = file.read_text()
    content = json.loads(whole)
    del content["projects"]["default"]["gold"]
    file.write_text(json.dumps(content))
    drop(catalog_url)
    with opened(catalog_url) as (operator,):
        result = rebuild(operator)
        assert sum("data key cannot be had" in finding for finding in result["findings"]) == 3
        assert images.get(operator.catalog, ids["sealed"])["status"] == "deactivated"
        plan = collect.plan(operator.catalog, operator.store)
        assert (plan.packs, plan.sparse) == ({}, [])
    file.write_text(whole)
    with opened(catalog_url, "default") as (_, ours):
        with ours.catalog.transaction() as connection:
            images.move(connection, UUID(ids["moved"]), "active")
        assert operations.content(ours, ids["moved"]) == content_of(contents["moved"])


def test_a_damaged_trailer_or_a_missing_manifest_is_told_and_loses_nothing_else(world, catalog_url, to):
    contents, ids, _, _ = world
    before = operations.objects(to)
    to.store.delete(manifest.object_key(UUID(ids["off"]), 0))
    table = manifest.read(to.store, UUID(ids["plain"]), 0, None)
    key = packs.object_key(table.scope.id, table.packs[0])
    body = bytearray(to.store.get(key))
    body[-60] ^= 1
    to.store.put(key, [body], len(body))
    drop(catalog_url)
    with opened(catalog_url, "default") as (operator, ours):
        codes = sorted(finding.partition(":")[0] for finding in rebuild(operator)["findings"])
        assert codes == ["object-missing", "pack-invalid"]
        assert operations.content(ours, ids["plain"]) == content_of(contents["plain"])
        collect.collect(operator)
        assert operations.objects(to).keys() == before.keys() - {manifest.object_key(UUID(ids["off"]), 0)}


def test_a_sidecar_that_cannot_be_read_is_told_and_keeps_the_collector_away(world, catalog_url, to):
    _, ids, _, _ = world
    to.store.put(sidecar.object_key(UUID(ids["plain"])), [b"{"], 1)
    drop(catalog_url)
    with opened(catalog_url) as (operator,):
        result = rebuild(operator)
        assert (result["images"], len(result["findings"])) == (len(ids) - 1, 1)
        with pytest.raises(collect.CatalogBehindError):
            collect.collect(operator)


def test_a_sidecar_brings_no_rows_but_those_of_its_image(world, catalog_url, to):
    """Whoever can write to the store would else name a compute host, whose address is a command."""
    _, ids, _, _ = world
    key = sidecar.object_key(UUID(ids["plain"]))
    record = json.loads(to.store.get(key))
    columns = {"uri": "qemu+ext:///?command=x", "storage": "/x", "accelerator": "tcg", "cache_size": 1}
    record["hosts"] = [{"name": "evil", "created_at": "2026-01-01T00:00:00Z", **columns}]
    record["tags"] = [{"image_id": ids["off"], "key": "forged", "value": ""}]
    body = json.dumps(record).encode()
    to.store.put(key, [body], len(body))
    drop(catalog_url)

    with opened(catalog_url) as (operator,):
        rebuild(operator)
        with operator.catalog.transaction() as connection:
            assert connection.execute("SELECT FROM hosts").rowcount == 0
            forged = connection.execute("SELECT image_id FROM tags WHERE key = 'forged'").fetchall()

    assert [str(row["image_id"]) for row in forged] == [ids["plain"]]


def test_images_that_an_older_catalog_lacks_are_added_beside_a_taken_name(world, catalog_url, to, tmp_path):
    contents, ids, _, _ = world
    with opened(catalog_url, "default") as (operator, ours):
        with operator.catalog.transaction() as connection:
            connection.execute("DELETE FROM images WHERE id = %s", (ids["plain"],))
        add(ours, tmp_path, "plain", [99])
        result = rebuild(operator)

        assert result["images"] == 1
        assert "since another one has its name" in result["findings"][0]
        assert images.find(ours.catalog, f"plain-{ids['plain'][:8]}")["protected"]
        assert operations.content(ours, ids["plain"]) == content_of(contents["plain"])


def test_a_catalog_that_was_used_since_is_refused(world, catalog_url, tmp_path):
    drop(catalog_url)
    with opened(catalog_url, "default") as (operator, ours):
        add(ours, tmp_path, "early", [1])
        with pytest.raises(rebuilding.ScopeTakenError, match="empty catalog"):
            rebuild(operator)


def test_a_store_that_goes_away_is_an_error_and_the_next_rebuild_goes_on(world, catalog_url):
    _, _, known, _ = world
    drop(catalog_url)
    with opened(catalog_url) as (operator,):
        broken = operations.with_store(operator, faults.ScriptedStore(operator.store, "O" * 12, then="E"))
        with pytest.raises(UnavailableError):
            rebuild(broken)
        assert rebuild(operator)["findings"] == []
        assert records(operator) == known
