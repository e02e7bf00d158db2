"""The deployments, made as their file says, and run by a worker."""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from darkroom import prefect_server
from darkroom.catalog import images

ROOT = Path(__file__).parent.parent


@pytest.fixture
def prefect(prefect_folder, home):
    """Run Prefect's command line against the embedded server, from the root of the repository."""
    quiet = prefect_server.client_environment(prefect_server.ensure(prefect_folder))

    def run(*words: str) -> str:
        environment = {**os.environ, **quiet, "PREFECT_HOME": str(home / "prefect-client"), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-m", "prefect", *words],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=55,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_a_worker_runs_an_import_that_was_asked_of_the_deployment(prefect, prefect_folder, to, raw_disk):
    prefect("block", "register", "-m", "blocks")
    prefect("work-pool", "create", "darkroom", "--type", "process")
    prefect("deploy", "--prefect-file", "deployments/prefect.yaml", "--all")
    asked = json.dumps({"source": str(raw_disk), "name": "web-1", "key": "gold"})
    prefect("deployment", "run", "import-image/default", "--param", f"request={asked}")
    prefect("worker", "start", "--pool", "darkroom", "--run-once")

    url = prefect_server.ensure(prefect_folder)
    assert sorted(f"{made['entrypoint']} {made['pull_steps']}" for made in found(f"{url}/deployments/filter")) == [
        "flows.export_image.export_image []",
        "flows.import_image.import_image []",
        "flows.reap_images.reap_images []",
        "flows.rekey_image.rekey_image []",
    ]
    assert {"darkroom-catalog", "darkroom-object-store", "darkroom-key-manager", "darkroom-project"} <= {
        kind["slug"] for kind in found(f"{url}/block_types/filter")
    }
    assert images.find(to.catalog, "web-1")["status"] == "active"


def found(url: str) -> list[dict]:
    request = urllib.request.Request(url, b"{}", {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)
