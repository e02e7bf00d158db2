"""What the audit log tells is told to Prefect and to the log of the run, after it is committed and never before."""

import json
import logging
import queue
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import get_client
from prefect.events import AutomationCore, EventTrigger
from prefect.events.actions import CallWebhook
from prefect.events.filters import EventFilter
from prefect.events.schemas.automations import Posture

from darkroom import importing
from darkroom.catalog import images
from darkroom.errors import RefusedError
from flows.import_image import import_image
from flows.parameters.transfer import ImportImage
from tasks import summary
from tasks.logs import JsonLines
from tasks.systems import Blocks, opened


def events(image: str, count: int) -> list:
    """The events of an image that the server has, when there are so many."""
    wanted = EventFilter.model_validate({"resource": {"id": [f"darkroom.image.{image}"]}})
    deadline = time.monotonic() + 30
    with get_client(sync_client=True) as client:
        while True:
            answer = client.request("POST", "/events/filter", json={"filter": wanted.model_dump(mode="json")})
            found = answer.json()["events"]
            if len(found) >= count or time.monotonic() > deadline:
                return found
            time.sleep(0.1)


def test_an_import_tells_prefect_when_it_begins_and_ends(prefect_api, to, raw_disk):
    result = import_image(ImportImage(source=str(raw_disk), name="web-1"))

    found = events(result["image"], 2)
    assert {event["event"] for event in found} == {"darkroom.import.started", "darkroom.import.done"}
    roles = {related["prefect.resource.role"] for related in found[0]["related"]}
    assert "flow-run" in roles


def test_a_refused_file_is_an_event_with_its_reason(prefect_api, to, tmp_path):
    (tmp_path / "disk.qcow2").write_bytes(b"not a disk" * 100)
    with pytest.raises(RefusedError):
        import_image(ImportImage(source=str(tmp_path / "disk.qcow2"), name="web-1"))
    with to.catalog.transaction() as connection:
        image = str(connection.execute("SELECT id FROM images").fetchone()["id"])

    failed = [event for event in events(image, 2) if event["event"] == "darkroom.import.failed"]
    assert failed[0]["payload"]["reason"].startswith("format-mismatch: disk.qcow2: ")


def roll_back(to):
    with to.catalog.transaction() as connection:
        images.record_event(connection, "import", None, "done")
        raise KeyError


def test_what_is_rolled_back_is_not_told(to):
    heard = []
    to.catalog.listeners.append(heard.append)
    with pytest.raises(KeyError):
        roll_back(to)
    with to.catalog.transaction() as connection:
        images.record_event(connection, "rekey", None, "done", "why")
        assert heard == []

    assert [(event["operation"], event["reason"]) for event in heard] == [("rekey", "why")]


def test_work_goes_on_where_nothing_can_be_told(to, raw_disk):
    """Outside of a run there is no log of a run, and no server is set."""
    with opened(Blocks()) as systems:
        found = importing.register(systems, importing.ImportRequest(source=str(raw_disk), name="one"))

    assert found["status"] == "queued"


def test_a_json_line_has_the_ids_of_run_and_image():
    record = logging.LogRecord("prefect.task_runs", logging.INFO, "f.py", 1, "import %s", ("done",), None)
    record.__dict__.update(flow_run_id="run-1", image="image-1", operation="import", outcome="done")

    line = json.loads(JsonLines().format(record))

    assert line["message"] == "import done"
    assert (line["flow_run_id"], line["image"], line["level"]) == ("run-1", "image-1", "info")


def test_a_page_says_what_was_saved_and_marks_up_nothing_that_others_named():
    name = "a|b](http://evil) <img src=x> `c`"
    values = {"image": "1234", "name": name, "virtual_size": 10 << 30, "allocated_size": 1 << 30, "new_size": 1 << 28}

    page = summary.page(f"Image {name}", {**values, "quick": True, "nothing": ""}, 83.2)

    assert "**10 GiB** of disk, **1 GiB** of data, **256 MiB** new in the store: 75 % of the data" in page
    assert "| virtual size | 10 GiB (10,737,418,240 bytes) |" in page
    assert "| time | 1m23s |" in page
    assert "\\<img" in page
    assert "a\\|b\\](http" in page
    assert "nothing" not in page
    assert "`darkroom export 1234 FILE`" in page


@pytest.fixture
def hook():
    """An HTTP server that keeps what it is sent."""
    received: queue.Queue = queue.Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            received.put(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", received
        server.shutdown()


def test_an_automation_calls_a_webhook_when_an_import_fails(prefect_api, to, tmp_path, hook):
    url, received = hook
    block = Webhook(url=url, allow_private_urls=True).save("hook", overwrite=True)
    sent = '{"image": "{{ event.payload.image }}", "reason": "{{ event.payload.reason }}"}'
    automation = AutomationCore(
        name="a failed import is told",
        trigger=EventTrigger(expect={"darkroom.import.failed"}, posture=Posture.Reactive, threshold=1),
        actions=[CallWebhook(block_document_id=block, payload=sent)],
    )
    with get_client(sync_client=True) as client:
        made = client.create_automation(automation)
    (tmp_path / "disk.qcow2").write_bytes(b"not a disk" * 100)
    try:
        with pytest.raises(RefusedError):
            import_image(ImportImage(source=str(tmp_path / "disk.qcow2"), name="web-1"))
        told = received.get(timeout=60)
    finally:
        with get_client(sync_client=True) as client:
            client.request("DELETE", "/automations/{id}", path_params={"id": made})

    assert told["reason"].startswith("format-mismatch: disk.qcow2: ")
    with to.catalog.transaction() as connection:
        assert told["image"] == str(connection.execute("SELECT id FROM images").fetchone()["id"])
