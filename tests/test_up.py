"""`darkroom up`: from nothing to a run that was asked for through the API, and back to nothing."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from uuid import UUID

import pytest

from tests.conftest import make_disk
from tests.service import DARKROOM, Service, images, running

GIB = 1 << 30


@pytest.fixture
def service(home):
    with running(home) as service:
        yield service
    assert service.processes() == []


def assert_told_as_json(log: Path, run: str) -> None:
    """The lines of the log are objects, and the last one of this import says which run, step and image it is of."""
    plain = [line.split()[0] for line in log.read_text().splitlines() if not line.startswith("{")]
    assert set(plain) <= {"Discovered", "Worker"}  # with which Prefect's worker begins
    lines = [json.loads(line) for line in log.read_text().splitlines() if run in line]
    of_run = [line for line in lines if line.get("flow_run_id") == run]
    done = [line for line in of_run if line.get("outcome") == "done"]
    assert len(done) == 1
    assert done[0]["message"] == f"import done {done[0]['image']}"
    assert done[0]["task_name"] == "register (active)"
    assert UUID(done[0]["task_run_id"])
    assert done[0]["flow_name"] == "import-image"
    assert {line["level"] for line in of_run} == {"info"}


def test_up_runs_what_is_asked_of_it_stops_cleanly_and_goes_on_where_it_stopped(service, tmp_path):
    disk, large = make_disk(tmp_path / "disk.raw"), tmp_path / "large.raw"
    with open(large, "wb") as file:
        for _ in range(GIB >> 20):
            file.write(os.urandom(1 << 20))
    said = service.up("--log", "json")
    assert str(service.home / "store") in said

    # A form's refusal comes before there is a run; that of a rule in its first second, in the command line's words.
    with pytest.raises(urllib.error.HTTPError) as refused:
        service.run("import-image", source=str(disk), name="a/b")
    assert refused.value.code == 409
    failed = service.state(service.run("import-image", source=str(disk), name="a", tags={"a b": "c"}), "FAILED")
    assert "tag-invalid: a b=c: these cannot be the tags" in failed["message"]

    # The blocks that it made are well, and hold no secret.
    documents = {found["block_type"]["slug"]: found["data"] for found in service.ask("/block_documents/filter")}
    assert "darkroom-catalog" not in documents
    blocks = {"object_store": "default", "key_manager": "default", "project": "default"}
    run = service.run("import-image", source=str(disk), name="web-1", format="raw", blocks=blocks)
    service.state(run, "COMPLETED")
    assert images() == {"web-1": "active"}
    assert_told_as_json(service.home / "worker" / "log", run)

    # A second one says so, and changes nothing.
    again = subprocess.run([DARKROOM, "up"], check=True, capture_output=True, text=True).stdout
    assert again.startswith(f"it runs already, as process {service.process.pid};")

    # A cancelled import leaves no process behind; the next one goes on. So does one that was interrupted by ctrl-C.
    schedule = service.deployment("reap-images")
    assert [made["active"] for made in schedule["schedules"]] == [True]
    made = f"/deployments/{schedule['id']}/schedules/{schedule['schedules'][0]['id']}"
    service.ask(made, {"active": False}, method="PATCH")
    cancelled = service.run("import-image", source=str(large), name="web-2", format="raw")
    service.state(cancelled, "RUNNING")
    time.sleep(1)
    began = time.monotonic()
    service.ask(f"/flow_runs/{cancelled}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
    service.state(cancelled, "CANCELLED")
    assert time.monotonic() - began < 30
    assert not [process for process in service.processes() if str(large) in process or "qemu" in process]
    assert images()["web-2"] != "active"

    interrupted = service.run("import-image", source=str(large), name="web-2", format="raw")
    service.state(interrupted, "RUNNING")
    assert service.end(signal.SIGINT) == 0
    assert service.processes() == []

    service.up()
    service.state(interrupted, "COMPLETED")
    assert images()["web-2"] == "active"
    assert [made["active"] for made in service.deployment("reap-images")["schedules"]] == [False]  # as it was left


def test_killed_with_9_its_worker_ends_and_the_next_one_takes_over(service):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    service.up("--listen", f"127.0.0.1:{port}")
    assert service.api == f"http://127.0.0.1:{port}/api"
    with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=30) as page:
        assert "<title>Prefect" in page.read().decode()
    with pytest.raises(urllib.error.HTTPError) as unknown:
        urllib.request.urlopen(f"{service.api}/deployments/count", b"{}", timeout=30)
    assert unknown.value.code == 401
    assert service.ask("/deployments/count") > 3

    service.end(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while any("worker" in process for process in service.processes()):
        assert time.monotonic() < deadline
        time.sleep(0.1)

    before = service.api
    service.up()
    assert service.api == before
    subprocess.run([DARKROOM, "down"], check=True, timeout=60)
    assert service.process.wait(10) == 0


def test_a_part_that_is_not_well_is_said_and_nothing_stays(home, monkeypatch):
    monkeypatch.setenv("DARKROOM_KEYS_URL", "ftp://nowhere")
    done = subprocess.run([DARKROOM, "up"], capture_output=True, text=True, check=False, timeout=60)

    assert done.returncode != 0
    assert done.stderr.startswith("darkroom: keys-url: ")
    assert Service(home).processes() == []
