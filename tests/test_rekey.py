"""Re-key: another wrap of the same data key, and nothing else."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from darkroom import check, crypto, rekeying
from darkroom.catalog import Catalog, images
from darkroom.keys import KeyMissingError
from darkroom.reading import NotReadableError
from tests import killing, operations


@pytest.fixture
def image(to, raw_disk):
    to.keys.create("silver")
    return operations.import_image(to, raw_disk, key="gold")


def wraps(to):
    with to.catalog.transaction() as connection:
        return connection.execute("SELECT image_id::text, key_name, wrapped FROM wraps").fetchall()


def forget(to, name):
    """Take a key out of the key file, as if it had been destroyed."""
    file = Path(to.keys.url)
    content = json.loads(file.read_text())
    del content["projects"]["default"][name]
    file.write_text(json.dumps(content))


def test_the_image_reads_the_same_when_the_old_key_is_gone(to, image, raw_disk):
    before, old = operations.objects(to), wraps(to)

    result = rekeying.rekey(to, "one", "silver")
    forget(to, "gold")

    assert result == {"image": image, "name": "one", "old_key": "gold", "key": "silver"}
    assert operations.content(to, image) == raw_disk.read_bytes()
    assert [(row["image_id"], row["key_name"]) for row in wraps(to)] == [(image, "silver")]
    assert wraps(to)[0]["wrapped"] != old[0]["wrapped"]
    assert {key for key, size in operations.objects(to).items() if before.get(key) != size} <= {
        f"images/{image}/image.json"
    }


def test_the_new_key_alone_opens_it(to, image):
    rekeying.rekey(to, image, "silver")
    forget(to, "silver")

    with pytest.raises(KeyMissingError, match="silver"):
        operations.content(to, image)


def test_a_missing_key_old_or_new_changes_nothing(to, image):
    old = wraps(to)
    with pytest.raises(KeyMissingError, match="bronze"):
        rekeying.rekey(to, image, "bronze")
    forget(to, "gold")
    with pytest.raises(KeyMissingError, match="gold"):
        rekeying.rekey(to, image, "silver")

    assert wraps(to) == old
    assert images.get(to.catalog, image)["key_name"] == "gold"


def test_what_has_no_data_key_or_is_not_active_is_refused(to, image, raw_disk):
    operations.import_image(to, raw_disk, name="plain")
    with pytest.raises(rekeying.NotEncryptedError, match="plain one"):
        rekeying.rekey(to, "plain", "silver")

    with to.catalog.transaction() as connection:
        images.move(connection, image, "deactivated")
    with pytest.raises(NotReadableError, match="deactivated"):
        rekeying.rekey(to, image, "silver")
    with pytest.raises(images.ImageMissingError):
        rekeying.rekey(to, "nowhere", "silver")


def test_twice_is_once_and_the_log_tells_it(to, image):
    rekeying.rekey(to, image, "silver")
    first = wraps(to)
    assert rekeying.rekey(to, image, "silver")["old_key"] == "silver"

    assert wraps(to) == first
    with to.catalog.transaction() as connection:
        events = connection.execute("SELECT outcome, reason FROM events WHERE operation = 'rekey'").fetchall()
    assert events == [{"outcome": "done", "reason": "from gold to silver"}]


def test_two_at_once_end_under_one_of_the_keys(to, image, raw_disk):
    to.keys.create("bronze")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda key: rekeying.rekey(to, image, key), ["silver", "bronze"] * 4))

    (wrap,) = wraps(to)
    assert wrap["key_name"] == images.get(to.catalog, image)["key_name"]
    assert operations.content(to, image) == raw_disk.read_bytes()


def test_killed_before_any_call_and_run_again_it_is_done(to, image, raw_disk):
    step, killed, names = 0, True, ("silver", "gold")
    with killing.runner() as runner:
        while killed:
            killed = runner.killed("rekeying.rekey", "one", names[step % 2], step=step)
            (wrap,) = wraps(to)
            assert wrap["key_name"] == images.get(to.catalog, image)["key_name"] in names

            rekeying.rekey(to, image, names[step % 2])

            assert [row["key_name"] for row in wraps(to)] == [names[step % 2]]
            step += 1
    assert step > 10
    assert operations.content(to, image) == raw_disk.read_bytes()


def test_the_next_version_under_either_key_imports_and_checks(to, image, raw_disk):
    rekeying.rekey(to, image, "silver")
    operations.import_image(to, raw_disk, name="two", key="gold")
    operations.import_image(to, raw_disk, name="three", key="silver")

    assert images.find(to.catalog, "two")["new_size"] == 0
    for name in ("one", "two", "three"):
        assert check.check_image(to, images.find(to.catalog, name), operations.quiet)["findings"] == []


def test_the_data_key_is_nowhere_in_the_catalog(to, image, catalog_url, monkeypatch):
    seen = []
    real = type(to.keys).unwrap
    monkeypatch.setattr(type(to.keys), "unwrap", lambda *given: seen.append(real(*given)) or seen[-1])
    rekeying.rekey(to, image, "silver")

    assert len(seen[0]) == crypto.KEY_SIZE
    with to.catalog.transaction() as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'darkroom'").fetchall()
    text = "".join(every_row(catalog_url, table["tablename"]) for table in tables)
    assert wraps(to)[0]["wrapped"].hex() in text
    assert not [key for key in seen if key.hex() in text]


def every_row(dsn, table):
    with Catalog(dsn, None) as operator, operator.transaction() as connection:
        return str(connection.execute(f"SELECT t::text FROM {table} t").fetchall())
