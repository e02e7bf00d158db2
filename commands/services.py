"""`darkroom status` and `darkroom down`: the systems, and those that Darkroom runs itself."""

import argparse
import fcntl
import ipaddress
import json
import os
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from darkroom import postgres, prefect_server, systems
from darkroom.catalog import Catalog
from darkroom.errors import DarkroomError, RefusedError
from darkroom.settings import Settings

_DOWN = 6
_LOCK = "service.lock"
_FLOCK = "hhqqi4x"  # struct flock on 64-bit Linux (fcntl(2)): kind, whence, start, length, process


class ListenError(RefusedError):
    """An address that cannot be listened on."""

    code = "listen-address"
    what = "this is not an address to listen on"
    exit_code = 2


def add_commands(commands: Any) -> None:
    """Add the parsers of this module."""
    parser = commands.add_parser("status", help="where catalog, store and keys are, and whether they are well")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=status)
    parser = commands.add_parser("down", help="stop `darkroom up`, the embedded catalog and the Prefect server")
    parser.set_defaults(run=down)


def status(options: argparse.Namespace) -> int:
    """Ask each system; exit code 6 if one is not well."""
    settings = Settings()
    found = health(settings)
    if options.json:
        print(json.dumps(found))
    else:
        for name, system in found.items():
            print(f"{name:<8} {'well' if system['well'] else 'DOWN'}  {system['where']}")
        server = prefect_server.status(settings.home / "prefect")
        url = os.environ.get("PREFECT_API_URL") or server["url"]
        print(f"prefect  {url or 'not running; it starts with the first operation'}")
        owner = service_owner(settings.home)
        print(f"service  {f'running, process {owner}' if owner else 'not running; `darkroom up` starts it'}")
    return 0 if all(system["well"] for system in found.values()) else _DOWN


def health(settings: Settings, *, operator: bool = False) -> dict[str, dict[str, Any]]:
    """Whether each of the systems is well, and where it is, or what is wrong; as the project of the settings sees it.

    Or as the operator, whose account acts as no project.
    """
    return {
        "catalog": _ask(lambda: _catalog(settings, None if operator else settings.project)),
        "store": _ask(lambda: _checked(systems.open_object_store(settings))),
        "keys": _ask(lambda: _checked(systems.open_key_manager(settings))),
    }


def address(text: str) -> tuple[str, int]:
    """Host and port of ADDRESS[:PORT]; raises ListenError unless they are an IP address and a number."""
    host, _, port = text.rpartition(":") if text.startswith("[") or text.count(":") == 1 else (text, "", "0")
    try:
        if not port.isdigit() or int(port) > 65535:
            raise ValueError(port)
        return str(ipaddress.ip_address(host.strip("[]"))), int(port)
    except ValueError:
        raise ListenError(text, "an IP address, and a port if wanted, such as 0.0.0.0:4200", "") from None


def down(_: argparse.Namespace) -> int:
    """Stop what Darkroom started; data stays, and the next command starts it again."""
    settings = Settings()
    if owner := service_owner(settings.home):
        os.kill(owner, signal.SIGTERM)
    with service_held(settings.home, wait=True):
        stop_servers(settings)
    return 0


def stop_servers(settings: Settings) -> None:
    """Stop the embedded servers, those that run."""
    prefect_server.stop(settings.home / "prefect")
    postgres.stop(settings.home / "catalog")


def service_owner(home: Path) -> int:
    """The number of the process that runs the service of this home; 0 if there is none. Never a stale one."""
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        with open(home / _LOCK, "rb+") as lock:
            kind, _, _, _, owner = struct.unpack(_FLOCK, fcntl.fcntl(lock, fcntl.F_GETLK, asked))
    except FileNotFoundError:
        return 0
    return 0 if kind == fcntl.F_UNLCK else int(owner)


@contextmanager
def service_held(home: Path, *, wait: bool = False) -> Iterator[None]:
    """Be the one that runs the service of this home; the kernel lets go when the process ends, however that ends.

    Raises BlockingIOError if there is one already, unless it shall wait for that one's end.
    """
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(home / _LOCK, "ab+") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def _ask(question: Callable[[], str]) -> dict[str, Any]:
    try:
        return {"well": True, "where": question()}
    except DarkroomError as error:
        return {"well": False, "where": str(error)}


def _catalog(settings: Settings, project: str | None) -> str:
    with Catalog(systems.catalog_dsn(settings), project) as catalog, catalog.transaction() as connection:
        row = connection.execute("SELECT count(*) AS images FROM images WHERE status = 'active'").fetchone()
        whose = f"project {catalog.project}" if catalog.project else "all projects"
        return f"{catalog.where}, {whose}, {row['images'] if row else 0} active images"


def _checked(system: Any) -> str:
    system.check()
    return str(system.url)
