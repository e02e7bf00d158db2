"""Between QEMU and the export of a disk: nbdkit, which asks again when the export is away.

QEMU would give its guest an error, and libvirt does not let it reconnect (it drops the setting). A proxy is a process
a disk, from the first boot until the disk is whole; it outlives whoever started it.
"""

import os
import signal
import subprocess
import time
from pathlib import Path

from darkroom.errors import DarkroomError

_PATIENCE = 120
"""Seconds for which the guest waits; then QEMU stops it, and it is resumed when the export is back."""
_READY = 30


class ProxyError(DarkroomError):
    """nbdkit does not start."""

    code = "proxy"
    what = "the proxy of a disk does not start"
    default_remedy = "see `darkroom host check`"


def ensure(socket: Path, export: Path, owner: int) -> None:
    """Have a proxy of the export on `export` listen at `socket`, for the account of QEMU and our own group alone.

    A confined program of ours, which has no right of root's but its group, reads there what a disk at rest lacks.
    """
    if _pid(socket):
        return
    socket.unlink(missing_ok=True)
    words = [
        *("nbdkit", "--unix", socket, "--pidfile", _pidfile(socket), "--readonly", "--filter=retry", "nbd"),
        *(f"socket={export}", f"retries={_PATIENCE}", "retry-delay=1", "retry-exponential=no", "retry-readonly=no"),
    ]
    # It goes to the background when it listens. Its words would keep our pipes open.
    done = subprocess.run(
        ["setsid", *map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=_READY,
        cwd="/",
        check=False,
    )
    if done.returncode or not socket.exists():
        raise ProxyError(str(socket), "exit code 0", str(done.returncode))
    socket.chmod(0o660)
    if os.geteuid() == 0:
        os.chown(socket, owner, os.getegid())


def stop(socket: Path) -> None:
    """End the proxy, if there is one, and remove what it leaves."""
    pid = _pid(socket)
    if pid:
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 2
        while _pid(socket) == pid:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
    socket.unlink(missing_ok=True)
    _pidfile(socket).unlink(missing_ok=True)


def _pid(socket: Path) -> int | None:
    """The process that is the proxy of this socket; a number that was given to another process since is none."""
    try:
        pid = int(_pidfile(socket).read_text())
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if os.fsencode(socket) in words else None


def _pidfile(socket: Path) -> Path:
    return socket.with_suffix(".pid")
