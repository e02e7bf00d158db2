"""`darkroom up`: catalog, Prefect server, deployments and a worker on this machine, until ctrl-C or `darkroom down`."""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from commands import services
from commands.flow import prefect_environment
from darkroom import choices, prefect_server, systems
from darkroom.choices import Choices
from darkroom.errors import DarkroomError, UnavailableError
from darkroom.settings import Settings

_ROOT = Path(__file__).parent.parent
_POOL = "darkroom"
_WATCH = 1.0
_LOOK = 5.0
"""Seconds between two looks at what forms offer."""
_REST = 60.0
"""Seconds until the next look after deployments were made anew for it, which takes seconds of a processor."""
_READY = 60.0
_STOP = 30.0
_LOUD = ("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "PREFECT_INTERNAL_LOGGING_LEVEL")


class ServiceError(UnavailableError):
    """A part of the service does not start, or ended."""

    code = "service"
    what = "a part of the service does not run"


def add_commands(commands: Any) -> None:
    """Add the parser of this module."""
    parser = commands.add_parser("up", help="run the service on this machine: UI, deployments, worker; ctrl-C ends it")
    parser.add_argument(
        "--listen",
        default="127.0.0.1",
        metavar="ADDRESS[:PORT]",
        help="where API and UI listen; by default this machine alone reaches them",
    )
    parser.add_argument("--log", choices=("text", "json"), default="text", help="lines of the worker's log")
    parser.set_defaults(run=up)


def up(options: argparse.Namespace) -> int:
    """Run the service until it is interrupted; then, or when a part cannot be kept up, all of it stops."""
    settings = Settings()
    host, port = services.address(options.listen)
    if owner := services.service_owner(settings.home):
        print(f"it runs already, as process {owner}; `darkroom down` stops it")
        return services.status(argparse.Namespace(json=False))
    with services.service_held(settings.home):
        for number in (signal.SIGINT, signal.SIGTERM):  # a shell that puts it in the background has SIGINT ignored
            signal.signal(number, signal.default_int_handler)
        try:
            if not os.environ.get("PREFECT_API_URL"):
                prefect_server.listen(settings.home / "prefect", host, port)
            _serve(settings, json_log=options.log == "json")
        except KeyboardInterrupt:
            print("stopping", flush=True)
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):  # nothing is left half stopped by a second ctrl-C
                signal.signal(number, signal.SIG_IGN)
            services.stop_servers(settings)
    return 0


def _serve(settings: Settings, *, json_log: bool) -> None:
    """Start all parts in order, print where they are, and watch them. Returns only by an exception."""
    with systems.open_systems(settings) as found:
        found.store.check()
        found.keys.check()
        print(f"catalog  {found.catalog.where}\nstore    {found.store.url}\nkeys     {found.keys.url}", flush=True)
    folder = settings.home / "prefect"
    own = os.environ.get("PREFECT_API_URL")
    client = prefect_environment(folder)
    environment = _environment(settings, client, json_log=json_log)
    forms = _Forms(settings, environment)
    os.environ.update(client)
    if not own:
        _resume()
    with _worker(settings.home / "worker", environment) as worker:
        _wait_for_worker(worker, settings)
        print(f"worker   process {worker.pid}, work pool {_POOL}, log {settings.home / 'worker' / 'log'}")
        api_url = client["PREFECT_API_URL"]
        print(f"API      {api_url}\nUI       {api_url.removesuffix('/api')}")
        if not own:
            print(f"password the line in {folder / 'password'}")
        print("ready; ctrl-C stops it", flush=True)
        while worker.poll() is None:
            time.sleep(_WATCH)
            if not own:
                prefect_server.ensure(folder)  # one that was killed comes back at the same address
            forms.keep()
    raise ServiceError("worker", "", f"exit code {worker.returncode}", f"see {settings.home / 'worker' / 'log'}")


class _Forms:
    """The deployments, whose forms offer the names of what there is: made, and made again when these have changed."""

    def __init__(self, settings: Settings, environment: dict[str, str]) -> None:
        """Raises ServiceError."""
        self._settings, self._environment = settings, environment
        self._offered = self._present()
        _apply(settings.home / "worker", environment)
        self._due = time.monotonic() + _LOOK

    def keep(self) -> None:
        """Look at the names once in a while. What is not well now is looked at again later."""
        if time.monotonic() < self._due:
            return
        try:
            found, wait = self._present(), _LOOK
            if found != self._offered:
                _apply(self._settings.home / "worker", self._environment)
                self._offered, wait = found, _REST
        except DarkroomError:
            wait = _REST
        self._due = time.monotonic() + wait

    def _present(self) -> Choices:
        with systems.open_systems(self._settings) as found:
            return choices.present(found)


def _environment(settings: Settings, client: dict[str, str], *, json_log: bool) -> dict[str, str]:
    """The environment of worker and deployments: as of this command, with Prefect's own files below our home."""
    folder = settings.home / "worker"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    client = {name: value for name, value in client.items() if name not in _LOUD}
    ours = {
        "PREFECT_HOME": str(folder),
        "PYTHONPATH": str(_ROOT),
        "PREFECT_WORKER_QUERY_SECONDS": "2",
    }
    if json_log:
        ours["PREFECT_LOGGING_SETTINGS_PATH"] = str(_ROOT / "deployments" / "logging.yaml")
    return {**os.environ, **client, **ours, "DARKROOM_HOME": str(settings.home)}


def _apply(folder: Path, environment: dict[str, str]) -> None:
    """Register blocks and deploy all flows. Raises ServiceError, with what Prefect said in the log."""
    with open(folder / "log", "ab") as log:
        command = [sys.executable, "-m", "deployments.apply"]
        code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, check=False)
    if code.returncode:
        raise ServiceError("deployments", "", f"exit code {code.returncode}", f"see {folder / 'log'}")


def _resume() -> None:
    """Ask again for the runs that ended with the worker of an earlier service, so that they go on where they stopped.

    Only of the embedded server: there, nobody but this service's worker runs them.
    """
    from prefect.client.orchestration import get_client  # noqa: PLC0415 - after its settings are made
    from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter  # noqa: PLC0415
    from prefect.states import Cancelled, Scheduled  # noqa: PLC0415

    runs = FlowRunFilter.model_validate({"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}})
    pool = WorkPoolFilter.model_validate({"name": {"any_": [_POOL]}})
    with get_client(sync_client=True) as client:
        while found := client.read_flow_runs(flow_run_filter=runs, work_pool_filter=pool):
            for run in found:
                cancelled = run.state and run.state.is_cancelling()
                client.set_flow_run_state(run.id, Cancelled() if cancelled else Scheduled(), force=True)


@contextmanager
def _worker(folder: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A worker, which takes as many runs at once as there are cores; it ends with this process, however that ends."""
    limit = str(max(2, os.cpu_count() or 1))
    start = [sys.executable, "-m", "prefect", "worker", "start", "--pool", _POOL, "--limit", limit]
    command = ["setpriv", "--pdeathsig", "TERM", *start]
    with open(folder / "log", "ab") as log:
        worker = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    try:
        yield worker
    finally:
        worker.terminate()
        try:
            worker.wait(_STOP)
        except subprocess.TimeoutExpired:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()


def _wait_for_worker(worker: subprocess.Popen[bytes], settings: Settings) -> None:
    """Wait until the server has heard from the worker. Raises ServiceError."""
    from prefect.client.orchestration import get_client  # noqa: PLC0415 - after its settings are made
    from prefect.types._datetime import now  # noqa: PLC0415

    started, deadline = now(), time.monotonic() + _READY
    with get_client(sync_client=True) as client:
        while worker.poll() is None and time.monotonic() < deadline:
            heard = [found.last_heartbeat_time for found in client.read_workers_for_work_pool(_POOL)]
            if any(moment and moment > started for moment in heard):
                return
            time.sleep(_WATCH / 4)
    raise ServiceError("worker", "", "no heartbeat", f"see {settings.home / 'worker' / 'log'}")
