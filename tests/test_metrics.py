"""Metrics and health, as Prometheus and a load balancer see them."""

import json
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from benchmarks import sources
from darkroom import metrics
from darkroom.catalog import Catalog
from darkroom.migration import batch, work
from darkroom.settings import Settings
from darkroom.systems import open_systems
from tests import operations

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
        found = samples(metrics.text(operator))

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
    assert found["migration_rows", "default", "failed"] == 2


def test_a_projects_own_account_sees_its_own_metrics_alone(to, catalog_url, raw_disk, monkeypatch):
    operations.import_image(to, raw_disk)
    with Catalog(catalog_url, None) as operator, operator.transaction() as connection:
        from darkroom.catalog import create_project

        create_project(connection, "other")
    monkeypatch.setenv("DARKROOM_PROJECT", "other")

    with open_systems(Settings()) as other:
        found = samples(metrics.text(other.catalog))

    assert not [labels for labels in found if "default" in labels]


@pytest.fixture
def served(to):
    process = subprocess.Popen([DARKROOM, "metrics", "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True)
    yield process.stdout.readline().strip()
    process.terminate()
    process.communicate(timeout=20)


def test_metrics_and_health_over_http(served, to):
    with urllib.request.urlopen(served, timeout=20) as answer:
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert samples(answer.read().decode())["leases", "held"] == 0
    health = served.replace("/metrics", "/health")
    with urllib.request.urlopen(health, timeout=20) as answer:
        assert [system["well"] for system in json.load(answer).values()] == [True, True, True]

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


def test_an_address_that_cannot_be_listened_on_is_refused():
    done = subprocess.run([DARKROOM, "metrics", "--listen", "everywhere"], capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert done.stderr.startswith("darkroom: listen-address: everywhere: ")
