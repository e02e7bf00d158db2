"""The embedded Prefect server: one per folder, whoever starts it, whatever is killed."""

import base64
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from darkroom import passwords, prefect_server

ENSURE = (
    "import sys, pathlib; from darkroom import prefect_server; print(prefect_server.ensure(pathlib.Path(sys.argv[1])))"
)


@pytest.fixture
def folder(prefect_folder, short_folder, request):
    """A folder whose server is not running; its database is made already, which saves most of a first start."""
    folder = short_folder / f"prefect-{request.node.name[:20]}"
    folder.mkdir()
    with sqlite3.connect(prefect_folder / "prefect.db") as made, sqlite3.connect(folder / "prefect.db") as copy:
        made.backup(copy)
    yield folder
    prefect_server.stop(folder)
    assert servers_of(folder) == []
    shutil.rmtree(folder)


def starter(folder: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", ENSURE, str(folder)], stdout=subprocess.PIPE, text=True)


def servers_of(folder: Path) -> list[int]:
    """The processes that work in the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(process / "cwd") == str(folder):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def answer(url: str, body: dict | None = None, password: str = ""):
    data = None if body is None else json.dumps(body).encode()
    token = base64.b64encode(password.encode()).decode()
    request = urllib.request.Request(url, data, {"content-type": "application/json", "authorization": f"Basic {token}"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def test_two_processes_that_start_it_at_once_get_the_same_one(folder):
    both = [starter(folder), starter(folder)]
    urls = [process.communicate(timeout=60)[0] for process in both]

    assert urls[0].startswith("http://127.0.0.1:")
    assert urls[0] == urls[1]
    assert servers_of(folder) == [prefect_server.status(folder)["pid"]]


def test_after_kill_9_it_comes_back_at_the_same_address_with_what_it_knew(folder):
    url = prefect_server.ensure(folder)
    made = answer(f"{url}/flows/", {"name": "remembered"}, passwords.kept(folder))
    first = prefect_server.status(folder)["pid"]
    os.killpg(first, signal.SIGKILL)

    assert prefect_server.ensure(folder) == url
    assert prefect_server.status(folder)["pid"] != first
    assert answer(f"{url}/flows/{made['id']}", password=passwords.kept(folder))["name"] == "remembered"


def test_a_starter_killed_while_it_starts_leaves_one_that_the_next_one_finds(folder):
    killed = starter(folder)
    while not (folder / "server.stat").exists():
        assert killed.poll() is None
    killed.kill()
    killed.communicate()
    prefect_server.ensure(folder)

    assert servers_of(folder) == [prefect_server.status(folder)["pid"]]


def test_it_takes_another_port_if_its_own_is_taken(folder):
    with socket.create_server(("127.0.0.1", 0)) as other:
        (folder / "port").write_text(str(other.getsockname()[1]))
        url = prefect_server.ensure(folder)

        assert f":{other.getsockname()[1]}/" not in url
        assert answer(f"{url}/health") is True


def test_it_gets_no_credentials_and_no_settings_meant_for_others(folder, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    monkeypatch.setenv("DARKROOM_CATALOG_URL", "postgresql://u:hush@h/d")
    monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", "sqlite+aiosqlite:////nowhere/hush.db")
    prefect_server.ensure(folder)
    environment = Path(f"/proc/{prefect_server.status(folder)['pid']}/environ").read_bytes()

    assert b"hush" not in environment
    assert b"PREFECT_HOME=" + os.fsencode(folder) in environment


def test_a_number_that_was_given_to_another_process_is_not_the_server(folder):
    ours = Path("/proc/self/stat").read_text().split()
    ours[21] = str(int(ours[21]) - 1)
    (folder / "server.stat").write_text(" ".join(ours))
    (folder / "port").write_text("1")

    assert prefect_server.status(folder) == {"running": False, "pid": None, "url": None}
    prefect_server.stop(folder)  # would end this very process


def test_one_that_cannot_start_says_where_its_log_is(short_folder):
    folder = short_folder / "prefect-broken"
    (folder / "prefect.db").mkdir(parents=True)

    with pytest.raises(prefect_server.PrefectServerError, match=f"^prefect-server: .*see {folder}/log$"):
        prefect_server.ensure(folder)
    assert (folder / "log").stat().st_size > 0
    assert servers_of(folder) == []


def test_its_ui_finds_its_api_and_is_the_one_that_asks_nobody_else(prefect_folder):
    url = prefect_server.ensure(prefect_folder)
    found = answer(url.removesuffix("/api") + "/ui-settings")

    assert found["api_url"] == "/api"
    assert found["available_uis"] == ["v1"]


def test_it_forgets_runs_after_a_month(prefect_folder):
    url = prefect_server.ensure(prefect_folder)
    vacuum = answer(f"{url}/admin/settings", None, passwords.kept(prefect_folder))["server"]["services"]["db_vacuum"]

    assert set(vacuum["enabled"]) == {"events", "flow_runs"}
    assert vacuum["retention_period"] == "P30D"


@pytest.mark.parametrize("password", ["", "darkroom:", "darkroom:guess"])
def test_who_does_not_know_its_password_is_told_nothing(prefect_folder, password):
    url = prefect_server.ensure(prefect_folder)
    file = prefect_folder / "password"

    with pytest.raises(urllib.error.HTTPError) as refused:
        answer(f"{url}/flow_runs/filter", {}, password)
    assert refused.value.code == 401
    assert answer(f"{url}/flow_runs/filter", {}, file.read_text().strip()) is not None
    assert (file.stat().st_mode & 0o777, file.stat().st_uid) == (0o600, os.getuid())
    assert len(file.read_text().strip()) > 30


def test_it_listens_where_it_is_told_to_and_keeps_its_password(folder):
    url = prefect_server.ensure(folder)
    password = passwords.kept(folder)
    prefect_server.listen(folder, "127.0.0.2", 0)
    assert prefect_server.status(folder)["pid"] is None

    moved = prefect_server.ensure(folder)
    assert moved == url.replace("127.0.0.1", "127.0.0.2")
    assert passwords.kept(folder) == password
    prefect_server.listen(folder, "127.0.0.2", 0)
    assert prefect_server.status(folder)["pid"] is not None
    assert isinstance(answer(f"{moved}/flows/filter", {}, password), list)


def test_a_page_of_another_site_may_not_ask_it(prefect_folder):
    url = prefect_server.ensure(prefect_folder)
    request = urllib.request.Request(f"{url}/health", headers={"Origin": "http://evil.example"})
    with urllib.request.urlopen(request, timeout=30) as response:
        assert response.headers["access-control-allow-origin"] != "*"
        assert "evil" not in (response.headers["access-control-allow-origin"] or "")


def test_it_is_found_past_a_proxy(prefect_folder, monkeypatch):
    url = prefect_server.ensure(prefect_folder)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "intranet")

    assert prefect_server.ensure(prefect_folder) == url
    assert prefect_server.client_environment(url)["no_proxy"] == "intranet,127.0.0.1,localhost"


def test_starting_it_does_not_import_prefect():
    code = "import sys, darkroom.prefect_server; print([name for name in sys.modules if name.startswith('prefect')])"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
