"""Several workers on one machine, as if each were a host of its own: started, stopped, and killed with all they run."""

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from darkroom import passwords, prefect_server

ROOT = Path(__file__).parent.parent
RESTARTING = 60.0
"""Seconds for which a server that is restarted may not answer."""
STOPPING = 60.0
"""Seconds that a worker has to end its runs and itself, as TimeoutStopSec of its unit says."""


class Pool:
    """An embedded Prefect server in `folder` with everything deployed, and workers, one run each at once.

    They have the environment of this process, and `changed` beside it.
    """

    def __init__(self, folder: Path, changed: dict[str, str] | None = None) -> None:
        self.folder, self.workers = folder, list[subprocess.Popen[bytes]]()
        self.url = prefect_server.ensure(folder)
        client = prefect_server.client_environment(self.url, folder)
        quiet = {name: value for name, value in client.items() if not name.startswith("PREFECT_LOGGING")}
        self.environment = {
            **os.environ,
            **(changed or {}),
            **quiet,
            "PREFECT_HOME": str(folder / "client"),
            "PYTHONPATH": str(ROOT),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
        }
        self._log = open(folder / "workers.log", "ab")  # noqa: SIM115 - closed with the pool
        self.apply(ROOT)

    def apply(self, root: Path) -> None:
        """Deploy all flows of the repository in `root`."""
        environment, log = {**self.environment, "PYTHONPATH": str(root)}, self._log
        command = [sys.executable, "-m", "deployments.apply"]
        subprocess.run(command, cwd=root, env=environment, check=True, stdout=log, stderr=log)

    def start_workers(self, count: int, **changed: str) -> None:
        """Start so many, `changed` in their environment, and wait until the server has heard of all."""
        for _ in range(count):
            command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "darkroom", "--limit", "1"]
            self.workers.append(
                subprocess.Popen(
                    ["setpriv", "--pdeathsig", "KILL", *command],
                    env={**self.environment, **changed},
                    stdin=subprocess.DEVNULL,
                    stdout=self._log,
                    stderr=self._log,
                    start_new_session=True,
                )
            )
        wait_for(lambda: len(self.online()) >= len(self.workers), 120)

    def online(self) -> list[dict[str, Any]]:
        """The workers that the server has heard of lately."""
        found = self.ask("/work_pools/darkroom/workers/filter", {})
        return [worker for worker in found if worker["status"] == "ONLINE"]

    def run(self, flow: str, **request: Any) -> str:
        """Ask for a run; its id."""
        title = urllib.parse.quote(flow.replace("-", " ").capitalize())
        deployment = self.ask(f"/deployments/name/{flow}/{title}", method="GET")
        asked = f"/deployments/{deployment['id']}/create_flow_run"
        return str(self.ask(asked, {"parameters": {"request": request}})["id"])

    def state(self, run: str) -> dict[str, Any]:
        """The state of a run."""
        found: dict[str, Any] = self.ask(f"/flow_runs/{run}", method="GET")["state"]
        return found

    def states(self, run: str) -> list[dict[str, Any]]:
        """All states of a run, the first one first."""
        found: list[dict[str, Any]] = self.ask(f"/flow_run_states/?flow_run_id={run}", method="GET")
        return sorted(found, key=lambda state: str(state["timestamp"]))

    def runs_of(self, worker: subprocess.Popen[bytes]) -> list[int]:
        """The processes below a worker."""
        return descendants(worker.pid)

    def processor_time(self) -> float:
        """Seconds that the workers and the runs that have ended have taken."""
        stats = (Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split() for worker in self.workers)
        return sum(sum(map(int, stat[11:15])) for stat in stats) / os.sysconf("SC_CLK_TCK")

    def kill(self, worker: subprocess.Popen[bytes]) -> None:
        """As the death of its host does: the worker and all that it runs, with no time for anything."""
        for pid in [worker.pid, *descendants(worker.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        worker.wait()
        self.workers.remove(worker)

    def stop(self, worker: subprocess.Popen[bytes]) -> None:
        """As systemd does: SIGTERM to the worker alone, and what is left of it after a while is killed."""
        below = descendants(worker.pid)
        worker.terminate()
        try:
            worker.wait(STOPPING)
        except subprocess.TimeoutExpired:
            self.kill(worker)
            return
        self.workers.remove(worker)
        for pid in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def restart_server(self) -> None:
        """Kill it with -9, and start it again at the same address."""
        pid = prefect_server.status(self.folder)["pid"]
        os.killpg(pid, signal.SIGKILL)
        assert prefect_server.ensure(self.folder) == self.url

    def ask(self, path: str, body: dict[str, Any] | None = None, method: str = "POST") -> Any:
        """An answer of Prefect's API, which may be busy or restarting."""
        token = base64.b64encode(passwords.kept(self.folder).encode()).decode()
        headers = {"content-type": "application/json", "authorization": f"Basic {token}"}
        data = None if method == "GET" else json.dumps(body or {}).encode()
        deadline = time.monotonic() + RESTARTING
        while True:
            try:
                request = urllib.request.Request(self.url + path, data, headers, method=method)
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return json.loads(answer.read() or b"null")
            except OSError as error:
                refused = isinstance(error, urllib.error.HTTPError) and error.code not in (500, 503)
                if refused or time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def close(self) -> None:
        """End the workers, then the server."""
        for worker in list(self.workers):
            self.stop(worker)
        prefect_server.stop(self.folder)
        self._log.close()


def descendants(pid: int) -> list[int]:
    """The processes below a process, however deep."""
    children: dict[int, list[int]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(process.name))
    found, left = [], [pid]
    while left:
        below = children.get(left.pop(), [])
        found += below
        left += below
    return found


def wait_for(condition: Any, seconds: float) -> None:
    """Wait until a condition holds; raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.2)
