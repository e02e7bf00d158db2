"""An import as a person makes it: in the browser, from the password to the page of what was made."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import browser
from tests.conftest import make_disk
from tests.test_up import Service

DARKROOM = str(Path(sys.executable).with_name("darkroom"))


@pytest.fixture
def service(home):
    service = Service(home)
    yield service
    subprocess.run([DARKROOM, "down"], check=True, timeout=60)
    service.process.communicate(timeout=60)


def test_an_import_is_asked_for_watched_and_read_about_in_the_browser(service, tmp_path):
    disk = make_disk(tmp_path / "disk.raw")
    service.up()
    password = (service.home / "prefect" / "password").read_text().strip()

    with browser.opened(service.api.removesuffix("/api"), password) as ui:
        ui.open_form("import-image")
        shown = ui.page.inner_text("main, body")
        assert "A path on the worker" in shown
        assert "Property is type" not in shown
        ui.field("Source").fill(str(disk))
        ui.field("Name").fill("a/b")
        with ui.page.expect_response("**/create_flow_run", timeout=5000) as refused:
            ui.page.get_by_role("button", name="Submit").click()
        assert refused.value.status == 409
        assert "/run?" in ui.page.url  # the form is there still, with what was filled in
        ui.field("Name").fill("web-1")
        run = ui.submit()
        ui.wait_for_state("Completed")
        page = ui.open_artifact("import")

    listed = subprocess.run([DARKROOM, "list", "--json"], check=True, capture_output=True, text=True).stdout
    (image,) = json.loads(listed)
    assert (image["name"], image["status"]) == ("web-1", "active")
    assert "Image web-1" in page
    assert f"content digest\t{image['content_digest']}" in page
    assert f"darkroom export {image['id']} FILE" in page
    assert service.ask(f"/flow_runs/{run}", method="GET")["state"]["type"] == "COMPLETED"
