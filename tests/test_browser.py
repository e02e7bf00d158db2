"""What a person does in the browser: an import, from the password to the page of what was made; a report's picture."""

import json
import re
import subprocess
import time

import pytest

from tests import browser
from tests.service import DARKROOM, running

SIZE = 64 << 20


@pytest.fixture
def service(home):
    with running(home) as service:
        yield service


@pytest.fixture
def slow_disk(short_folder):
    """The address of a disk that is served slowly, and the file that says how many bits a second."""
    socket, rate = short_folder / "slow.sock", short_folder / "slow.rate"
    rate.write_text("8M")  # bits a second: it takes until it is told to be faster
    command = ["nbdkit", "--foreground", "--unix", socket, "--filter=rate", "pattern", str(SIZE)]
    with subprocess.Popen([*command, f"rate-file={rate}"], stdout=subprocess.DEVNULL) as server:
        yield f"nbd+unix:///?socket={socket}", rate
        server.terminate()
    socket.unlink(missing_ok=True)


def test_an_import_is_asked_for_watched_and_read_about_in_the_browser(service, slow_disk):
    source, rate = slow_disk
    service.up()
    subprocess.run([DARKROOM, "key", "create", "gold"], check=True, stdout=subprocess.DEVNULL)
    while "'gold'" not in str(service.deployment("import-image")):
        time.sleep(0.5)  # until the test's time is up: the service looks every few seconds
    password = (service.home / "prefect" / "password").read_text().strip()

    with browser.opened(service.api.removesuffix("/api"), password) as ui:
        ui.open_form("import-image")
        shown = ui.page.inner_text("main, body")
        assert "A path on the worker" in shown
        assert "Property is type" not in shown
        ui.field("Source").fill(source)
        ui.field("Name").fill("a/b")
        ui.choose("Encrypt under key", "gold")
        assert ui.field("Encrypt under key").input_value() == "gold"
        with ui.page.expect_response("**/create_flow_run", timeout=5000) as refused:
            ui.page.get_by_role("button", name="Submit").click()
        assert refused.value.status == 409
        assert "/run?" in ui.page.url  # the form is there still, with what was filled in
        ui.field("Name").fill("web-1")
        run = ui.submit()
        shares = ui.progress("upload")
        share = int(re.search(r"Progress: (\d+)%", ui.open_artifact("progress-upload", "text=Progress:"))[1])
        rate.write_text("100G")
        ui.page.goto(f"{ui.url}/runs/flow-run/{run}")
        ui.wait_for_state("Completed")
        page = ui.open_artifact("import")

        ui.open_form("report-images")
        ui.submit()
        ui.wait_for_state("Completed")
        ui.open_artifact("usage-picture", "img[src^='data:image/png']")
        width, height = ui.picture()

    listed = subprocess.run([DARKROOM, "list", "--json"], check=True, capture_output=True, text=True).stdout
    (image,) = json.loads(listed)
    assert (image["name"], image["status"], image["encrypted"]) == ("web-1", "active", True)
    assert "Image web-1" in page
    assert f"content digest\t{image['content_digest']}" in page
    assert f"darkroom export {image['id']} FILE" in page
    assert service.ask(f"/flow_runs/{run}", method="GET")["state"]["type"] == "COMPLETED"
    assert 0 < shares[0] < shares[1] <= share < 100
    assert width > height > 100
