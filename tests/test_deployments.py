"""The deployments, made as their file says, and run by a worker."""

import base64
import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from darkroom import passwords, prefect_server
from darkroom.catalog import images

ROOT = Path(__file__).parent.parent


@pytest.fixture
def prefect(prefect_folder, home):
    """Run Prefect's command line against the embedded server, from the root of the repository."""
    quiet = prefect_server.client_environment(prefect_server.ensure(prefect_folder), prefect_folder)

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


@pytest.fixture
def apply(prefect_folder, home, monkeypatch):
    """Run `python -m deployments.apply` against that server."""
    for name, value in prefect_server.client_environment(prefect_server.ensure(prefect_folder), prefect_folder).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PREFECT_HOME", str(home / "prefect-client"))
    return lambda: subprocess.run([sys.executable, "-m", "deployments.apply"], cwd=ROOT, check=True, timeout=100)


def flows() -> list[str]:
    """Each module of a flow; helpers among them would be in `tasks`."""
    modules = [path.stem for path in (ROOT / "flows").glob("*.py") if "@flow(" in path.read_text()]
    assert len(modules) > 3
    return modules


def test_a_worker_runs_an_import_that_was_asked_of_the_deployment(prefect, apply, prefect_folder, to, raw_disk):
    apply()
    apply()  # which changes nothing
    asked = json.dumps({"source": str(raw_disk), "name": "web-1", "key": "gold"})
    prefect("deployment", "run", "import-image/Import image", "--param", f"request={asked}")
    prefect("worker", "start", "--pool", "darkroom", "--run-once")

    url = prefect_server.ensure(prefect_folder)
    password = passwords.kept(prefect_folder)
    made = found(f"{url}/deployments/filter", password)
    assert sorted(one["name"].lower().replace(" ", "_") for one in made) == sorted(flows())
    assert sorted(one["entrypoint"] for one in made) == sorted(f"flows.{name}.{name}" for name in flows())
    assert [one["name"] for one in made if one["pull_steps"] or not one["description"] or not one["tags"]] == []
    assert {"darkroom-catalog", "darkroom-object-store", "darkroom-key-manager", "darkroom-project"} <= {
        kind["slug"] for kind in found(f"{url}/block_types/filter", password)
    }
    assert images.find(to.catalog, "web-1")["status"] == "active"

    # What is scheduled will run.
    scheduled = {one["id"] for one in made if one["schedules"]}
    asked = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
    while not scheduled <= {run["deployment_id"] for run in found(f"{url}/flow_runs/filter", password, asked)}:
        time.sleep(0.5)  # until the test's time is up: the server looks at deployments each few seconds

    # Its name is offered by the forms that can use it, and nothing else of the deployments has changed.
    apply()
    again = found(f"{url}/deployments/filter", password)
    both = list(zip(by_name(made), by_name(again), strict=True))
    for word in ("version", "schedules"):
        assert [new["name"] for old, new in both if old[word] != new[word]] == []
    form = "parameter_openapi_schema"
    changed = {new["name"]: str(new[form]) for old, new in both if old[form] != new[form]}
    assert {"Export image", "Delete images"} <= changed.keys()
    assert not {"Import image", "Create key"} & changed.keys()
    assert [name for name, schema in changed.items() if "'web-1'" not in schema] == []


def by_name(deployments: list[dict]) -> list[dict]:
    return sorted(deployments, key=lambda one: one["name"])


def found(url: str, password: str, asked: dict | None = None) -> list[dict]:
    token = base64.b64encode(password.encode()).decode()
    headers = {"content-type": "application/json", "authorization": f"Basic {token}"}
    request = urllib.request.Request(url, json.dumps(asked or {}).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)
