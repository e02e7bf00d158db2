"""Metrics and health, as Prometheus and a load balancer see them."""

import base64
import json
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from benchmarks import sources
from darkroom import audit, deleting, metrics
from darkroom.catalog import Catalog, batches, images
from darkroom.migration import batch, work
from darkroom.settings import Settings
from darkroom.systems import open_systems
from tests import operations

ROOT = Path(__file__).parent.parent
DARKROOM = str(Path(sys.executable).with_name("darkroom"))


def samples(text) -> dict[tuple[str, ...], float]:
    """What Prometheus' own parser reads: values by name and labels."""
    return {
        (sample.name.removeprefix("darkroom_"), *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_tell_what_is_in_the_catalog(to, catalog_url, tmp_path):
    table = sources.make(tmp_path / "sources", 8, size=1 << 20, broken_every=4)
    made = batch.register(to, str(table), "")
    work.work(to, made, 2, operations.quiet, lambda *_: None, lead=False)
    raw = next((tmp_path / "sources").glob("*.raw"))
    operations.import_image(to, raw, name="unfinished", until="register")

    with Catalog(catalog_url, None) as operator:
        found = samples(metrics.text(operator, {"store": True, "keys": False}))

    with to.catalog.transaction() as connection:
        packs = connection.execute("SELECT sum(size)::float8 AS n FROM packs").fetchone()["n"]
        data = connection.execute("SELECT sum(allocated_size)::float8 AS n FROM images").fetchone()["n"]
    assert found["images", "active", "default"] == 6
    assert found["images", "default", "queued"] == 1
    assert found["leases", "held"] == 1
    assert found["image_bytes", "default", "virtual"] == 6 << 20
    assert found["store_bytes", "default"] == packs
    assert found["dedup_ratio", "default"] == data / packs > 1
    assert found["operations_total", "default", "done", "import"] == 6
    assert found["failures_total", "default", "virtual-size"] == 1
    assert found["operations_total", "default", "failed", "migrate"] == 0  # so that the first one is an increase
    assert found["migration_rows", "default", "failed"] == 2
    assert (found["well", "store"], found["well", "keys"]) == (1, 0)


def test_rows_that_wait_for_a_batch_that_was_stopped_are_not_in_the_queue(to, tmp_path):
    table = sources.make(tmp_path / "sources", 3, size=1 << 20)
    batch.register(to, str(table), "", run="1")
    batches.stop(to.catalog, "1")

    found = samples(metrics.text(to.catalog, {}))

    assert found["migration_rows", "default", "stopped"] == 3
    assert ("migration_rows", "default", "queued") not in found


def rows(to, query):
    with to.catalog.transaction() as connection:
        return connection.execute(query).fetchall()


def test_counters_count_what_was_committed_once_and_never_go_down(to, catalog_url, raw_disk):
    with to.catalog.transaction() as connection:
        for outcome in ("done", "done", "failed"):
            images.record_event(connection, "import", None, outcome)
    killed = operations.import_image(to, raw_disk, until="register")
    deleting.cancel(to, killed)

    with Catalog(catalog_url, None) as operator:

        def counters() -> dict[tuple[str, ...], float]:
            found = samples(metrics.text(operator, {}))
            return {labels: value for labels, value in found.items() if labels[0].endswith("_total")}

        before = counters()
        assert before["operations_total", "default", "done", "import"] == 2
        assert before["failures_total", "cancelled", "default"] == 1
        with to.catalog.transaction() as late:
            images.record_event(late, "import", None, "done")  # which is open while all others are put together
            audit.sum_up(operator)
            assert counters() == before
        audit.sum_up(operator)
        summed = [tuple(row["labels"]) for row in rows(to, "SELECT labels FROM totals")]
        assert len(set(summed)) == len(summed)  # a row for each
        with operator.transaction() as connection:
            connection.execute("DELETE FROM events")
        deleting.purge(to, killed)

        after = counters()
        assert rows(to, "SELECT id FROM images") == []
        assert all(after[labels] >= value for labels, value in before.items())
        assert after["operations_total", "default", "done", "import"] == 3


def test_a_scrape_reads_nothing_of_the_audit_log(to, catalog_url):
    with to.catalog.transaction() as connection:
        images.record_event(connection, "import", None, "done")
    with psycopg.connect(catalog_url, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {connection.info.dbname} SET lock_timeout = '2s'")
    with Catalog(catalog_url, None) as operator, operator.transaction() as connection:
        connection.execute("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")  # whoever reads it now waits, and fails

        assert samples(metrics.text(operator, {}))["operations_total", "default", "done", "import"] == 1


def test_a_project_neither_makes_totals_nor_changes_them(to):
    with to.catalog.transaction() as connection:
        images.record_event(connection, "import", None, "done")
    for statement in ("DELETE FROM totals", "UPDATE totals SET n = 9", "INSERT INTO totals SELECT * FROM totals"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege), to.catalog.transaction() as connection:
            connection.execute(statement)


def test_a_projects_own_account_sees_its_own_metrics_alone(to, catalog_url, raw_disk, monkeypatch):
    operations.import_image(to, raw_disk)
    with Catalog(catalog_url, None) as operator, operator.transaction() as connection:
        from darkroom.catalog import create_project

        create_project(connection, "other")
    monkeypatch.setenv("DARKROOM_PROJECT", "other")

    with open_systems(Settings()) as other:
        with other.catalog.transaction() as connection:
            images.record_event(connection, "import", None, "done")
        found = samples(metrics.text(other.catalog, {}))

    assert found["operations_total", "done", "import", "other"] == 1
    assert not [labels for labels in found if "default" in labels]


@contextmanager
def serving(address):
    """The first lines of `darkroom metrics --listen`."""
    process = subprocess.Popen([DARKROOM, "metrics", "--listen", address], stdout=subprocess.PIPE, text=True)
    try:
        yield process.stdout
    finally:
        process.terminate()
        process.communicate(timeout=20)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="expected: promtool is in Debian's package prometheus")
def test_alerts_say_what_is_wrong_and_nothing_else():
    done = subprocess.run(
        ["promtool", "test", "rules", ROOT / "tests" / "alerts.yaml"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def served(to):
    with serving("127.0.0.1:0") as lines:
        yield lines.readline().strip()


def ask(url, password="", scheme="Basic"):
    """Status and body of the answer."""
    token = base64.b64encode(password.encode()).decode()
    request = urllib.request.Request(url, headers={"authorization": f"{scheme} {token}"} if password else {})
    try:
        answer = urllib.request.urlopen(request, timeout=20)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        assert ("www-authenticate" in answer.headers) == (answer.status == 401)
        return answer.status, answer.read().decode()


def test_beyond_loopback_metrics_ask_for_the_password_and_health_tells_no_details(to):
    with serving("0.0.0.0:0") as lines:
        url = lines.readline().strip().replace("0.0.0.0", "127.0.0.1")
        file = Path(lines.readline().removeprefix("password the line in ").strip())
        password = file.read_text().strip()
        health = url.replace("/metrics", "/health")

        assert file == to.settings.home / "metrics" / "password"
        assert file.stat().st_mode & 0o777 == 0o600
        for wrong in ("", "darkroom:", "darkroom:guess", password + "x"):
            assert ask(url, wrong)[0] == ask(url.replace("/metrics", "/no"), wrong)[0] == 401
            assert ask(health, wrong) == (200, '{"well": true}')
        assert ask(url, password, "Bearer")[0] == 401
        assert 'darkroom_well{system="catalog"} 1.0' in ask(url, password)[1]
        assert str(to.store.url) in ask(health, password)[1]
        assert ask(url.replace("/metrics", "/no"), password)[0] == 404
        # As Prometheus' basic_auth does it; here is somebody else's client.
        curl = ["curl", "-fsS", "--user", password, url]
        assert "darkroom_leases" in subprocess.run(curl, capture_output=True, text=True, check=True).stdout
    with serving("0.0.0.0:0") as lines:
        lines.readline()
        lines.readline()
        assert file.read_text().strip() == password


def test_each_metric_that_an_alert_names_is_one_of_ours(to):
    rules = yaml.safe_load((ROOT / "deployments" / "alerts.yaml").read_text())
    found = [rule for group in rules["groups"] for rule in group["rules"]]
    printed = subprocess.run([DARKROOM, "metrics"], capture_output=True, text=True, check=True).stdout
    ours = set(re.findall(r"^# TYPE (\w+)", printed, re.M))
    documented = set(re.findall(r"`(darkroom_\w+)", (ROOT / "docs" / "operate.md").read_text()))

    assert len(found) >= 5
    for rule in found:
        assert {"alert", "expr", "for", "labels", "annotations"} >= set(rule) >= {"alert", "expr", "annotations"}
        assert set(re.findall(r"darkroom_\w+", rule["expr"])) <= ours, rule["alert"]
        assert "darkroom_" in rule["expr"] or "up{" in rule["expr"]
    assert {name for name in ours if name.startswith("darkroom_")} <= documented


def test_metrics_and_health_over_http(served, to):
    with urllib.request.urlopen(served, timeout=20) as answer:
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert samples(answer.read().decode())["leases", "held"] == 0
    health = served.replace("/metrics", "/health")
    with urllib.request.urlopen(health, timeout=20) as answer:
        assert [system["well"] for system in json.load(answer).values()] == [True, True, True]

    time.sleep(2.1)  # systems are not asked again before
    Path(to.keys.url).unlink()
    shutil.rmtree(to.store.url, ignore_errors=True)
    Path(to.store.url).write_text("no folder")
    with pytest.raises(urllib.error.HTTPError) as unwell:
        urllib.request.urlopen(health, timeout=20)
    assert unwell.value.code == 503
    assert json.load(unwell.value)["store"]["well"] is False
    with pytest.raises(urllib.error.HTTPError) as missing:
        urllib.request.urlopen(served.replace("/metrics", "/etc/passwd"), timeout=20)
    assert missing.value.code == 404


@pytest.mark.parametrize("address", ["everywhere", "192.0.2.1:0"])
def test_an_address_that_cannot_be_listened_on_is_refused(address):
    done = subprocess.run([DARKROOM, "metrics", "--listen", address], capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert done.stderr.startswith(f"darkroom: listen-address: {address}: ")
