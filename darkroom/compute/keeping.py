"""How others speak to the keeper of a host: over a unix socket, one line of JSON each way.

Whoever needs the keeper first starts it. It ends by itself when no disk of the host reads from an image any more.
"""

import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from uuid import UUID

from darkroom import systems
from darkroom.compute import proxy
from darkroom.compute.hosts import Host
from darkroom.errors import ConflictError, DarkroomError, UnavailableError
from darkroom.systems import Systems

_READY = 60.0
_ANSWER = 90.0
_POLL = 0.05
_TRIES = 3
# What keeps the keeper: one that is killed is started again; not one that had nothing left to do, or lost its folder.
_AGAIN = 'until "$@" || [ ! -d "$0" ]; do sleep 0.3; done'


class KeeperError(UnavailableError):
    """The keeper of the host does not start or answer."""

    code = "keeper"
    what = "the process that serves images to this host's servers does not answer"


class KeeperSystemsError(ConflictError):
    """The keeper was started by a command that works with another catalog, object store or key manager."""

    code = "keeper-systems"
    what = "the process that serves images to this host's servers works with other systems than this command"


class KeeperRefusedError(DarkroomError):
    """The keeper answers that it cannot."""

    code = "keeper-refused"
    what = "the disk cannot be served"


def ensure(to: Systems, host: Host) -> dict[str, Any]:
    """Make sure that the keeper of the host runs, with our systems; its status. Raises KeeperError, KeeperSystemsError.

    It works with those of the environment of whoever started it.
    """
    try:
        status = ask(host, "status")
    except KeeperError:
        status = _started(host)
    for name, ours in systems.identity(to.catalog, to.store, to.keys).items():
        theirs = status["systems"][name]
        if theirs != ours:
            remedy = f"work with the same {name}, or end process {status['pid']}, and the next command starts another"
            raise KeeperSystemsError(host.name, f"{name} {ours}", theirs, remedy)
    return status


def _started(host: Host) -> dict[str, Any]:
    host.prepare()
    with open(host.run / "start.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        deadline, started = time.monotonic() + _READY, None
        while True:
            try:
                return ask(host, "status")
            except KeeperError:
                if time.monotonic() > deadline:
                    raise
            if started is None or started.poll() is not None:  # it ends at once while one that was stopped still closes
                started = _start(host)
            time.sleep(_POLL)


def ask(host: Host, command: str, **words: Any) -> dict[str, Any]:
    """Have the keeper do something and wait for its answer; raises KeeperError, KeeperRefusedError."""
    request = json.dumps({"command": command, **words}).encode() + b"\n"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(_ANSWER)
            client.connect(str(control(host)))
            client.sendall(request)
            answer = json.loads(client.makefile().readline() or "null")
    except (OSError, ValueError) as error:
        raise KeeperError(host.name, "", str(error), f"see {host.run / 'keeper.log'}") from error
    if answer is None:
        raise KeeperError(host.name, "an answer", "none", f"see {host.run / 'keeper.log'}")
    if "error" in answer:
        kind = KeeperError if answer["may_pass"] else KeeperRefusedError
        raise kind(host.name, "", answer["error"])
    found: dict[str, Any] = answer
    return found


def serve(to: Systems, host: Host, disk: UUID) -> Path:
    """Have a disk served as its row says; return the socket for QEMU. Raises what `ensure` and `ask` raise."""
    for attempt in range(_TRIES):
        try:
            ensure(to, host)
            return Path(ask(host, "serve", disk=str(disk))["socket"])
        except KeeperError:  # it may have ended in this moment, with nothing left to do
            if attempt == _TRIES - 1:
                raise
    raise AssertionError


def release(host: Host, disk: UUID) -> None:
    """Have a disk served no more; nothing to do where no keeper runs, but for its proxy."""
    try:
        ask(host, "release", disk=str(disk))
    except KeeperError:
        pass
    proxy.stop(proxy_socket(host, disk))
    export_socket(host, disk).unlink(missing_ok=True)


def stop(host: Host) -> None:
    """End the keeper, if it runs; guests wait meanwhile."""
    try:
        ask(host, "stop")
    except KeeperError:
        return
    deadline = time.monotonic() + _READY
    while control(host).exists() and time.monotonic() < deadline:
        time.sleep(_POLL)


def export_socket(host: Host, disk: UUID) -> Path:
    """Where the keeper serves a disk."""
    return host.run / f"{disk.hex}.x"


def proxy_socket(host: Host, disk: UUID) -> Path:
    """Where the proxy serves it to QEMU."""
    return host.run / f"{disk.hex}.p"


def control(host: Host) -> Path:
    """Where the keeper listens."""
    return host.run / "keeper"


def _start(host: Host) -> subprocess.Popen[bytes]:
    command = ["sh", "-c", _AGAIN, str(host.run), sys.executable, "-m", "darkroom.compute.keeper", host.name]
    root = Path(__file__).parent.parent.parent
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = {**inherited, "PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))}
    with open(host.run / "keeper.log", "ab") as log:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd="/", start_new_session=True
        )
