"""The embedded Prefect server: API and UI for one machine, with the same life as the embedded catalog.

It is started by the first operation that needs one, shared by all processes, and runs until it is stopped. Whoever
has a Prefect server of their own sets PREFECT_API_URL, and this one is never started. It asks everyone for a password,
on loopback too: who may use it has the worker's account. Prefect itself is not imported here: that takes seconds.
"""

import fcntl
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from darkroom import passwords
from darkroom.errors import UnavailableError

_READY = 60.0
_POLL = 0.05
_STOP = 15.0
_LET_GO = 2.0
"""How long a server that was killed may take to let go of its port, in seconds."""
_LOOPBACK = "127.0.0.1"
_NOWHERE = "http://127.0.0.1:9"
_NOT_INHERITED = ("PREFECT_", "DARKROOM_", "AWS_")

QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
}
"""Settings under which Prefect, as server, client and UI, looks up nothing outside."""

_SERVER = {
    **QUIET,
    "PREFECT_LOGGING_LEVEL": "WARNING",
    # The block types that come with Prefect have logos on a code host, which the UI would load.
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
    "PREFECT_SERVER_UI_V2_ENABLED": "false",
    # Runs that were begun before a restart are heard to end.
    "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "tasks.mending",
    # A transaction for each event of each step keeps SQLite busy: a client that finds it so waits two seconds.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "50",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "50",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    # What is scheduled makes hundreds of runs a day; those of the last month stay.
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(30 * 24 * 3600),
    # The server reads the list of worker types from a code host, without a setting for it; where that does not
    # answer, it takes its own copy. So what is not on this machine is behind a proxy that refuses.
    **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"), _NOWHERE),
    **dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost"),
}

# The shell records its own number and start time (proc(5)) before it becomes the server, and holds the lock, as its
# standard input, until then: so the record is there for whoever comes next, even if the starter was killed.
_RECORDED = 'cat /proc/$$/stat >server.new && mv server.new server.stat && exec "$@" </dev/null'


# A list in the UI hears the click that opens it twice, at its button and at the box around that, and closes again. So
# the button lets clicks through to the box; not what is in it, such as the cross that takes away one of several.
_MENDED = "<style>.p-select-button__control{pointer-events:none}.p-select-button__control .p-tag *{pointer-events:auto}"


class PrefectServerError(UnavailableError):
    """The embedded Prefect server cannot be started."""

    code = "prefect-server"
    what = "the embedded Prefect server does not run"


def ensure(folder: Path) -> str:
    """Make sure that the server below `folder` runs; return its API URL. Raises PrefectServerError."""
    if not (_pid(folder) and _answers(folder)):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(folder) as lock:
            # One that was just killed is still there for a moment, and never answers.
            if not (_pid(folder) and _wait(folder)):
                _start(folder, lock)
                if not _wait(folder):
                    raise _failure(folder)
                _mend_lists(folder / "ui" / "v1" / "index.html")
    return _url(folder)


def listen(folder: Path, host: str, port: int) -> None:
    """Have the server below `folder` listen on this address from its next start on; port 0: as before, or any.

    One that runs on another address is stopped.
    """
    if (host, port or _port(folder)) != (_host(folder), _port(folder)):
        stop(folder)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / "host").write_text(host)
    if port:
        (folder / "port").write_text(str(port))


def stop(folder: Path) -> None:
    """Stop the server, if it runs: what it has in hand it finishes, within reason."""
    if not folder.is_dir():
        return
    with _locked(folder):
        pid = _pid(folder)
        if not pid:
            return
        _signal(pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP
        while _pid(folder) == pid:
            if time.monotonic() > deadline:
                _signal(pid, signal.SIGKILL)
            time.sleep(_POLL)


def status(folder: Path) -> dict[str, Any]:
    """Whether the server runs, as which process, and where; reads files only."""
    pid = _pid(folder)
    return {"running": pid is not None, "pid": pid, "url": _url(folder) if pid else None}


def client_environment(api_url: str, folder: Path | None = None) -> dict[str, str]:
    """What to set before Prefect is imported, for flows whose words are meant for people at a terminal.

    `folder` is that of the embedded server, if that is the one at `api_url`; its password goes with it. The log of a
    run goes to the server, not to the terminal; a server on this machine is not sought behind a proxy.
    """
    direct = [os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "", "127.0.0.1", "localhost"]
    proxies = dict.fromkeys(("NO_PROXY", "no_proxy"), ",".join(filter(None, direct)))
    silence = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL", "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL"}
    known = {"PREFECT_API_AUTH_STRING": passwords.kept(folder)} if folder else {}
    told = {"PREFECT_LOGGING_EXTRA_LOGGERS": "darkroom"}  # what the domain has to say is in the log of the run too
    return {**QUIET, **proxies, **silence, **told, **known, "PREFECT_API_URL": api_url}


def _start(folder: Path, lock: int) -> None:
    host = _host(folder)
    port = _free_port(host, _port(folder))
    (folder / "port").write_text(str(port))
    _leave_out_second_ui(folder / "ui")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)}
    environment = {
        **inherited,
        **_SERVER,
        "PREFECT_HOME": str(folder),
        "PREFECT_SERVER_API_HOST": host,
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_API_AUTH_STRING": passwords.kept(folder),
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://127.0.0.1:{port}",
        "PREFECT_SERVER_UI_API_URL": "/api",  # of the same origin, whatever name or proxy the browser came by
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(folder / "ui"),
    }
    command = ["sh", "-c", _RECORDED, "sh", sys.executable, "-m", "prefect", "server", "start"]
    with open(folder / "log", "ab") as log:
        started = subprocess.Popen(
            command, stdin=lock, stdout=log, stderr=log, env=environment, cwd=folder, start_new_session=True
        )
    while _pid(folder) != started.pid:
        if started.poll() is not None:
            raise _failure(folder)
        time.sleep(_POLL)


def _leave_out_second_ui(folder: Path) -> None:
    """Have the server not serve its second UI, which asks an analytics service how to behave, whatever the settings.

    The server leaves out a UI whose files it cannot copy; the folder to copy to is taken by a link to nowhere.
    """
    folder.mkdir(exist_ok=True)
    if not (folder / "v2").is_symlink():
        (folder / "v2").symlink_to("nowhere")


def _mend_lists(page: Path) -> None:
    """Have a list in the UI open by a click; the server copies its UI here when it starts for the first time."""
    if page.exists() and _MENDED not in (text := page.read_text()):
        part = page.with_suffix(".part")
        part.write_text(text.replace("</head>", f"{_MENDED}</style></head>"))
        part.replace(page)


def _wait(folder: Path) -> bool:
    """Wait until the server answers; False if it ends before. Raises PrefectServerError when it takes too long."""
    deadline = time.monotonic() + _READY
    while not _answers(folder):
        if not _pid(folder):
            return False
        if time.monotonic() > deadline:
            raise _failure(folder)
        time.sleep(_POLL)
    return True


def _failure(folder: Path) -> PrefectServerError:
    return PrefectServerError(str(folder), "", "no answer", f"see {folder / 'log'}")


def _pid(folder: Path) -> int | None:
    """The process that is the server; a number that was given to another process since is none."""
    try:
        pid, started = _identity((folder / "server.stat").read_text())
        return pid if _identity(Path(f"/proc/{pid}/stat").read_text()) == (pid, started) else None
    except (OSError, ValueError, IndexError):
        return None


def _identity(stat: str) -> tuple[int, str]:
    """Number and start time in clock ticks of a process (proc(5), fields 1 and 22); a zombie has ended."""
    number, _, rest = stat.partition(" ")
    fields = rest.rpartition(")")[2].split()
    return int(number), "" if fields[0] == "Z" else fields[19]


def _port(folder: Path) -> int:
    """The port of this start or the last one; 0 if there was none."""
    try:
        return int((folder / "port").read_text())
    except (OSError, ValueError):
        return 0


def _host(folder: Path) -> str:
    """The address that it listens on."""
    try:
        return (folder / "host").read_text()
    except OSError:
        return _LOOPBACK


def _reached_at(folder: Path) -> str:
    """The address at which this machine reaches it."""
    host = _host(folder)
    return _LOOPBACK if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared, not bound to


def _url(folder: Path) -> str:
    host = _reached_at(folder)
    return f"http://{f'[{host}]' if ':' in host else host}:{_port(folder)}/api"


def _free_port(host: str, wanted: int) -> int:
    """The wanted port, so that workers and bookmarks find the server again; any that is free if it stays taken."""
    deadline = time.monotonic() + _LET_GO
    while not (port := _bindable(host, wanted)):
        if time.monotonic() > deadline:
            wanted = 0
        time.sleep(_POLL)
    return port


def _bindable(host: str, port: int) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return 0
        return int(probe.getsockname()[1])


def _answers(folder: Path) -> bool:
    connection = http.client.HTTPConnection(_reached_at(folder), _port(folder), timeout=5)
    try:
        connection.request("GET", "/api/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _signal(pid: int, number: signal.Signals) -> None:
    """Signal the server and all that it started."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        pass


@contextmanager
def _locked(folder: Path) -> Iterator[int]:
    with open(folder / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()
