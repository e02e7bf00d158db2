"""`darkroom up` in a home of its own, as a person has it: started, asked by its API, stopped."""

import base64
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DARKROOM = str(Path(sys.executable).with_name("darkroom"))


class Service:
    """`darkroom up` in a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home, self.api, self.process = home, "", None

    def up(self, *options: str) -> str:
        self.process = subprocess.Popen(
            [DARKROOM, "up", *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        said = ""
        for line in self.process.stdout:
            said += line
            if line.startswith("ready"):
                break
        assert "ready" in said, said
        self.api = next(line.split()[1] for line in said.splitlines() if line.startswith("API"))
        return said

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        self.process.communicate(timeout=40)
        return self.process.returncode

    def ask(self, path: str, body: dict | None = None, method: str = "POST"):
        data = None if method == "GET" else json.dumps(body or {}).encode()
        token = base64.b64encode((self.home / "prefect" / "password").read_bytes().strip()).decode()
        headers = {"content-type": "application/json", "authorization": f"Basic {token}"}
        request = urllib.request.Request(self.api + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or b"null")

    def deployment(self, name: str) -> dict:
        title = urllib.parse.quote(name.replace("-", " ").capitalize())
        return self.ask(f"/deployments/name/{name}/{title}", method="GET")

    def run(self, flow: str, /, **request) -> str:
        asked = f"/deployments/{self.deployment(flow)['id']}/create_flow_run"
        return self.ask(asked, {"parameters": {"request": request}})["id"]

    def state(self, run: str, *wanted: str) -> dict:
        """Wait until a run is in one of these states."""
        deadline = time.monotonic() + 60
        while (state := self.ask(f"/flow_runs/{run}", method="GET")["state"])["type"] not in wanted:
            assert time.monotonic() < deadline, state
            time.sleep(0.1)
        return state

    def processes(self) -> list[str]:
        """What runs with this home in its command line, its environment, or as its folder."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                seen = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
                if os.fsencode(self.home) in seen and int(process.name) != os.getpid():
                    found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
        return found


@contextmanager
def running(home: Path) -> Iterator[Service]:
    """A service, to be started in the block; it is stopped at the end."""
    service = Service(home)
    yield service
    subprocess.run([DARKROOM, "down"], check=True, timeout=60)
    if service.process:
        service.process.communicate(timeout=60)


def images() -> dict[str, str]:
    listed = subprocess.run([DARKROOM, "list", "--json"], check=True, capture_output=True, text=True).stdout
    return {image["name"]: image["status"] for image in json.loads(listed)}
