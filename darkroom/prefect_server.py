"""The embedded Prefect server: API and UI for one machine, with the same life as the embedded catalog.

It is started by the first operation that needs one, shared by all processes, and runs until it is stopped. Whoever
has a Prefect server of their own sets PREFECT_API_URL, and this one is never started. Prefect itself is not imported
here: that takes seconds.
"""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from darkroom.errors import UnavailableError

_READY = 60.0
_POLL = 0.05
_STOP = 15.0
QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
}
"""Settings under which neither server nor client look up anything outside."""


class PrefectServerError(UnavailableError):
    """The embedded Prefect server cannot be started."""

    code = "prefect-server"
    what = "the embedded Prefect server does not run"


def ensure(folder: Path) -> str:
    """Make sure that the server below `folder` runs; return its API URL. Raises PrefectServerError."""
    found = _running(folder)
    if not found or not _answers(found["url"]):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(folder):
            found = _running(folder) or _start(folder)
            _wait(folder, found)
    return str(found["url"])


def stop(folder: Path) -> None:
    """Stop the server, if it runs."""
    found = _running(folder)
    if not found:
        return
    deadline = time.monotonic() + _STOP
    number = signal.SIGTERM
    while _is_alive(found):
        try:
            os.killpg(found["pid"], number)
        except ProcessLookupError:
            break
        time.sleep(_POLL)
        number = signal.SIGKILL if time.monotonic() > deadline else signal.SIGTERM


def status(folder: Path) -> dict[str, Any]:
    """Whether the server runs, and where."""
    found = _running(folder)
    return {"running": found is not None, "url": found["url"] if found else None}


def client_environment(api_url: str) -> dict[str, str]:
    """What to set before Prefect is imported, for flows whose words are meant for people at a terminal."""
    return {**QUIET, "PREFECT_API_URL": api_url, "PREFECT_LOGGING_LEVEL": "CRITICAL"}


def _start(folder: Path) -> dict[str, Any]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, **QUIET, "PREFECT_HOME": str(folder), "PREFECT_LOGGING_LEVEL": "WARNING"}
    environment.pop("PREFECT_API_URL", None)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with open(folder / "log", "ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            cwd=folder,
            start_new_session=True,
        )
    found = {"pid": process.pid, "started": _started(process.pid), "url": f"http://127.0.0.1:{port}/api"}
    (folder / "server.json").write_text(json.dumps(found))
    return found


def _wait(folder: Path, found: dict[str, Any]) -> None:
    deadline = time.monotonic() + _READY
    while not _answers(found["url"]):
        if not _is_alive(found) or time.monotonic() > deadline:
            raise PrefectServerError(found["url"], "", "no answer", f"see {folder / 'log'}")
        time.sleep(_POLL)


def _running(folder: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads((folder / "server.json").read_text())
    except (OSError, ValueError):
        return None
    return found if _is_alive(found) else None


def _is_alive(found: dict[str, Any]) -> bool:
    """Whether it is the same process: a number may have been given to another one since."""
    return bool(found["started"]) and _started(found["pid"]) == found["started"]


def _started(pid: int) -> str:
    """The start time of a process in clock ticks (proc(5), field 22); empty if there is none, or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:  # noqa: S310 - our own loopback address
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with open(folder / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
