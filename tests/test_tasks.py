"""How steps run under Prefect: what is tried again, what a run ends as, what it shows, which systems it uses."""

from uuid import UUID

import pytest
from prefect import flow, task
from prefect.artifacts import Artifact
from prefect.client.orchestration import get_client
from pydantic import SecretStr

from blocks.catalog import CatalogDatabase
from blocks.keys import KeyManager
from blocks.project import Project
from blocks.store import ObjectStore
from darkroom.catalog import images
from darkroom.errors import RefusedError, UnavailableError
from flows.export_image import export_image
from flows.import_image import import_image
from flows.parameters.base import SystemBlocks
from flows.parameters.transfer import ExportImage, ImportImage
from tasks import batch, progress
from tasks.policy import POLICY
from tasks.systems import Blocks, opened
from tests.conftest import make_disk

AT_ONCE = {**POLICY, "retry_delay_seconds": 0}


def run_failing(error, failures: int):
    """Run a step that fails so often; return the state in which its flow ends, and its calls."""
    calls = []

    @task(**AT_ONCE)
    def step():
        calls.append(1)
        if len(calls) <= failures:
            raise error
        return "done"

    @flow(persist_result=False)
    def operation():
        return step()

    return operation(return_state=True), calls


def test_a_step_is_tried_again_after_an_error_that_can_pass(prefect_api):
    state, calls = run_failing(UnavailableError("the store"), failures=2)

    assert state.is_completed()
    assert state.result() == "done"
    assert len(calls) == 3


def test_a_step_gives_up_on_an_error_that_does_not_pass(prefect_api):
    state, calls = run_failing(UnavailableError("the store"), failures=99)

    assert isinstance(state.result(raise_on_failure=False), UnavailableError)
    assert len(calls) == 1 + POLICY["retries"]


@pytest.mark.parametrize("error", [RefusedError("disk.vmdk"), KeyError("a bug")], ids=["refused", "a bug"])
def test_a_step_is_not_tried_again_after_any_other_error(prefect_api, error):
    state, calls = run_failing(error, failures=99)

    assert state.is_failed()
    assert state.result(raise_on_failure=False) is error
    assert len(calls) == 1


def run_batch(failures: int):
    """Run a step for three names, of which the second is refused and the third meets what passes after so often."""
    calls = []

    @task(**AT_ONCE)
    def step(name, _blocks):
        calls.append(name)
        if name == "two":
            raise RefusedError(name)
        if name == "three" and calls.count(name) <= failures:
            raise UnavailableError("the catalog")
        return {"image": name, "name": name, "outcome": "done"}

    @flow(persist_result=False)
    def operation():
        return batch.each(step, ["one", "two", "three"], Blocks())

    return operation(return_state=True), calls


def test_of_a_batch_a_step_is_tried_again_after_an_error_that_can_pass(prefect_api):
    state, calls = run_batch(failures=2)

    assert [(row["name"], row["outcome"]) for row in state.result()] == [
        ("one", "done"),
        ("two", "refused"),
        ("three", "done"),
    ]
    assert calls == ["one", "two", "three", "three", "three"]


def test_a_batch_whose_system_stays_down_fails_and_has_no_result_of_it(prefect_api):
    state, calls = run_batch(failures=99)
    error = state.result(raise_on_failure=False)

    assert isinstance(error, UnavailableError)
    assert error.exit_code == 6
    assert calls.count("three") == 1 + POLICY["retries"]


def test_progress_becomes_an_artifact_of_the_step(prefect_api, monkeypatch):
    monkeypatch.setattr(progress, "_INTERVAL", 0)

    @task(**POLICY)
    def step():
        with progress.reported("halfway") as report:
            report(0, 0)
            report(512, 1024)
            shown = Artifact.get("progress-halfway")
        return shown.data, str(shown.task_run_id)

    @flow
    def operation():
        return step(return_state=True)

    state = operation()
    share, run = state.result()

    assert float(share) == 50.0
    assert UUID(run) == state.state_details.task_run_id
    assert float(Artifact.get("progress-halfway").data) == 100.0


def test_work_goes_on_when_its_progress_cannot_be_shown(prefect_api, monkeypatch):
    monkeypatch.setattr(progress, "_INTERVAL", 0)
    heard = []
    monkeypatch.setattr(progress, "_listeners", [lambda *words: heard.append(words)])

    @task(**POLICY)
    def step():
        with progress.reported("NOT A KEY THAT PREFECT TAKES") as report:
            report(1, 2)
        return "done"

    @flow
    def operation():
        return step()

    assert operation() == "done"
    assert heard == [("NOT A KEY THAT PREFECT TAKES", 1, 2)]


def test_an_import_ends_with_an_active_image_and_its_page(prefect_api, to, raw_disk):
    result = import_image(ImportImage(source=str(raw_disk), name="web-1", key="gold"))
    page = Artifact.get("import").data

    assert images.find(to.catalog, "web-1")["status"] == "active"
    assert f"| content digest | `{result['content_digest']}` |" in page
    assert f"| virtual size | 40.3 MiB ({result['virtual_size']:,} bytes) |" in page


def test_an_export_through_its_flow_gives_the_same_bytes(prefect_api, to, raw_disk, tmp_path):
    import_image(ImportImage(source=str(raw_disk), name="web-1"))
    export_image(ExportImage(image="web-1", target=str(tmp_path / "out.raw"), format="raw"))

    assert (tmp_path / "out.raw").read_bytes() == raw_disk.read_bytes()


def test_a_refused_file_ends_the_run_as_failed_and_kills_the_image(prefect_api, to, tmp_path):
    (tmp_path / "disk.qcow2").write_bytes(b"not a disk" * 100)
    state = import_image(ImportImage(source=str(tmp_path / "disk.qcow2"), name="web-1"), return_state=True)
    error = state.result(raise_on_failure=False)
    with get_client(sync_client=True) as client:
        recorded = client.read_flow_run(state.state_details.flow_run_id).state
    with to.catalog.transaction() as connection:
        row = connection.execute("SELECT status, failure FROM images WHERE name = 'web-1'").fetchone()

    assert isinstance(error, RefusedError)
    assert recorded.is_failed()
    assert f"{error.code}: disk.qcow2" in recorded.message
    assert row["status"] == "killed"
    assert row["failure"]["code"] == error.code


def test_blocks_give_the_same_systems_as_the_environment(prefect_api, to, catalog_url, home, tmp_path, monkeypatch):
    CatalogDatabase(dsn=SecretStr(catalog_url)).save("other")
    ObjectStore(url=str(tmp_path / "store")).save("other")
    KeyManager(url=str(home / "keys.json")).save("other")
    Project(name="default").save("other")
    for name in ("CATALOG_URL", "STORE_URL", "KEYS_URL", "PROJECT"):
        monkeypatch.setenv(f"DARKROOM_{name}", "nowhere")
    names = SystemBlocks(catalog="other", object_store="other", key_manager="other", project="other")
    disk = make_disk(tmp_path / "disk.raw", size=1 << 20)
    result = import_image(ImportImage(source=str(disk), name="web-1", key="gold", blocks=names))

    with opened(names.names()) as systems:
        assert systems.settings.project == "default"
        assert systems.store.url == str(tmp_path / "store")
    assert str(images.find(to.catalog, "web-1")["id"]) == result["image"]
    assert any(key.startswith("packs/") or "/packs/" in key for key, _ in systems.store.list(""))


def test_a_block_does_not_show_its_secrets(prefect_api):
    CatalogDatabase(dsn=SecretStr("postgresql://u:hush@h/d")).save("secret", overwrite=True)
    with get_client(sync_client=True) as client:
        document = client.read_block_document_by_name("secret", "darkroom-catalog", include_secrets=False)

    assert "hush" not in document.model_dump_json()
