"""The keeper of a host: one long-lived process that serves images to the servers that have not yet all of their disks.

    python -m darkroom.compute.keeper HOST

It opens each such disk by its row, whatever has become of the image, serves it on a socket of its own behind a proxy,
copies the rest in the background once the guest is quiet, and lets go when the disk is whole. A guest that QEMU stopped
because its disk was away is resumed. All that it knows is in the catalog: killed, it is started again and goes on.
"""

import dataclasses
import fcntl
import json
import os
import signal
import socketserver
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

from darkroom import systems
from darkroom.catalog import Catalog, servers
from darkroom.compute import hosts, keeping
from darkroom.compute.chunkcache import ChunkCache, HostChunks
from darkroom.compute.hosts import Host
from darkroom.compute.serving import Served
from darkroom.errors import DarkroomError
from darkroom.settings import Settings
from darkroom.systems import Systems

_TICK = 0.5
_IDLE = 20.0
_AGAIN = 2.0
_LINE = 1 << 16


class Keeper:
    """What the process holds. `stopping` is set when it shall end."""

    def __init__(self, host: Host, settings: Settings, operator: Catalog) -> None:
        self.host, self.settings, self.operator = host, settings, operator
        self.stopping = threading.Event()
        self._open = ExitStack()
        self._projects: dict[str, Systems] = {}
        self._disks: dict[UUID, Served] = {}
        self._lock = threading.RLock()
        self._said: dict[UUID, str] = {}
        self.store = systems.open_object_store(settings)
        self.identity = systems.identity(operator, self.store, systems.open_key_manager(settings))
        self.chunks = HostChunks(self.store, ChunkCache(host.cache, host.cache_size))

    def run(self) -> None:
        """Tend all disks until nothing is left to do or `stopping` is set; then close all."""
        busy = time.monotonic()
        try:
            while not self.stopping.wait(_TICK):
                if self._tend_all() or self._disks:
                    busy = time.monotonic()
                if time.monotonic() - busy > _IDLE or not self.host.run.is_dir():
                    return
        finally:
            with self._lock:
                for served in self._disks.values():
                    served.close()
            self._open.close()

    def answer(self, command: str, words: dict[str, Any]) -> dict[str, Any]:
        """Do what was asked over the control socket; raises DarkroomError, KeyError, ValueError."""
        if command == "serve":
            return {"socket": str(self._serve(UUID(words["disk"])))}
        if command == "release":
            self._release(UUID(words["disk"]))
        elif command == "stop":
            self.stopping.set()
        elif command != "status":
            raise ValueError(command)
        counts = {"gets": self.chunks.gets, "fetched": self.chunks.fetched}
        return {"pid": os.getpid(), "systems": self.identity, "disks": [str(disk) for disk in self._disks], **counts}

    def _serve(self, disk: UUID) -> Path:
        row = next(iter(servers.readable(self.operator, self.host.name, disk)), None)
        if row is None:
            raise servers.VolumeMissingError(str(disk))
        with self._lock:
            served = self._opened(row)
            served.ready(row)
        # QEMU reads the first sector before it answers to libvirt: a start would hang while the store is away.
        served.disk.prefetch([0])[0].result()
        return keeping.proxy_socket(self.host, disk)

    def _release(self, disk: UUID) -> None:
        with self._lock:
            served = self._disks.pop(disk, None)
            if served:
                served.close()

    def _opened(self, row: dict[str, Any]) -> Served:
        served = self._disks.get(row["id"])
        if served is None:
            project = self._project(row["project"])
            served = self._disks[row["id"]] = Served(self.host, project, self.operator, self.chunks, row)
        return served

    def _project(self, name: str) -> Systems:
        """The systems as a project has them: its keys, under its role."""
        if name not in self._projects:
            settings = dataclasses.replace(self.settings, project=name)
            self._projects[name] = self._open.enter_context(systems.open_systems(settings))
        return self._projects[name]

    def _tend_all(self) -> int:
        """Look after each lazy disk once; how many there are. What fails is tried again at the next tick."""
        try:
            rows = servers.readable(self.operator, self.host.name)
            self._let_go(rows)
        except DarkroomError as error:
            self._say(self.host.name, error)
            return 1
        for row in rows:
            try:
                with self._lock:
                    served = self._opened(row)
                    served.ready(row)
                    if served.tend(row):
                        self._finish(row)
            except Exception as error:  # one disk must not keep the others from being served
                self._say(row["id"], error)
        return len(rows)

    def _let_go(self, rows: list[dict[str, Any]]) -> None:
        """Serve no more what was removed while this could not be told; one that is being made is not lazy yet."""
        with self._lock:
            for disk in self._disks.keys() - {row["id"] for row in rows}:
                if not servers.readable(self.operator, self.host.name, disk):
                    self._release(disk)

    def _finish(self, row: dict[str, Any]) -> None:
        """The disk is whole: it lets go of the image, in one transaction, and then of what served it."""
        with self.operator.transaction() as connection:
            servers.change(connection, "server_disks", row["id"], status="whole", data_key=None, hydrated=row["size"])
            connection.execute("DELETE FROM holds WHERE holder = %s", (row["id"],))
            connection.execute(
                """INSERT INTO events (project_id, operation, image_id, outcome, reason)
                VALUES (%s, 'hydrate', %s, 'done', %s)""",
                (row["project_id"], row["image_id"], f"disk {row['id']}"),
            )
        self._release(row["id"])

    def _say(self, about: Any, error: BaseException) -> None:
        """Write an error to the log, once as long as it stays the same."""
        text = str(error) if isinstance(error, DarkroomError) else f"{type(error).__name__}: {error}"
        if self._said.get(about) != text:
            self._said[about] = text
            print(time.strftime("%Y-%m-%d %H:%M:%S"), about, text, file=sys.stderr, flush=True)


class _Control(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    keeper: Keeper


class _Request(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        """Answer one line."""
        assert isinstance(self.server, _Control)
        try:
            words = json.loads(self.rfile.readline(_LINE))
            answer = self.server.keeper.answer(words.pop("command"), words)
        except Exception as error:
            if isinstance(error, DarkroomError):
                answer = {"error": str(error), "may_pass": error.retryable}
            else:
                answer = {"error": repr(error), "may_pass": False}
        self.wfile.write(json.dumps(answer).encode() + b"\n")


def main(name: str) -> int:
    """Keep a host until there is nothing to keep; 0 then, also where another keeper does."""
    settings = Settings()
    try:
        with systems.operator_catalog(settings) as operator:
            host = hosts.find(operator, name)
            with open(host.run / "keeper.lock", "a") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return 0
                _keep(Keeper(host, settings, operator))
    except DarkroomError as error:
        print(error, file=sys.stderr, flush=True)
        if not error.retryable:
            return 0  # such as a host that was removed
        time.sleep(_AGAIN)
        return 1
    return 0


def _keep(keeper: Keeper) -> None:
    path = keeping.control(keeper.host)
    path.unlink(missing_ok=True)  # of one that was killed: we hold the lock
    signal.signal(signal.SIGTERM, lambda *_: keeper.stopping.set())
    with _Control(str(path), _Request) as control:
        path.chmod(0o600)
        control.keeper = keeper
        threading.Thread(target=control.serve_forever, name="control", daemon=True).start()
        try:
            keeper.run()
        finally:
            path.unlink(missing_ok=True)
            control.shutdown()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
