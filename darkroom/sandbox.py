"""Programs that parse untrusted bytes, confined by bubblewrap.

A confined program has no network, no processes but its own, and a file system of /usr, a private /tmp, what is bound
on purpose, and the descriptors that it is given. It has no capability, bounded memory and open files, and it dies
with the thread that started it.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from darkroom.errors import DarkroomError
from darkroom.model import GiB

MEMORY = 4 * GiB
"""Address space of a confined program, in bytes; QEMU's thread stacks and arenas reserve most of it."""

_OPEN_FILES = 256
_WORDS = 4096
_SYSTEM = (
    *("--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin"),
    *("--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64"),
    *("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"),  # noqa: S108 - the confined program's own
)


class SandboxMissingError(DarkroomError):
    """Bubblewrap is not installed, and nothing untrusted is parsed without it."""

    code = "sandbox-missing"
    what = "this program is needed to confine others"
    default_remedy = "run `make setup`, or install the package bubblewrap"


class ConfinedError(DarkroomError):
    """A confined program failed."""

    code = "confined-program"
    what = "a confined program failed"


def command(
    arguments: Sequence[str], *, read: Sequence[Path] = (), write: Sequence[Path] = (), file_size: int | None = None
) -> list[str]:
    """The command that runs `arguments` confined; `read` and `write` are bound at their own paths.

    `file_size` bounds each file that it writes, in bytes. Raises SandboxMissingError.
    """
    for program in ("bwrap", "prlimit", "setpriv"):
        if shutil.which(program) is None:
            raise SandboxMissingError(program)
    limits = [f"--as={MEMORY}", f"--nofile={_OPEN_FILES}", "--core=0"]
    if file_size is not None:
        limits.append(f"--fsize={file_size}")
    binds = [word for path in read for word in ("--ro-bind", str(path), str(path))]
    binds += [word for path in write for word in ("--bind", str(path), str(path))]
    return [
        *_with_parent(),
        "prlimit",
        *limits,
        "bwrap",
        *_isolation(),
        *_SYSTEM,
        *binds,
        "--chdir",
        "/",
        "--",
        *arguments,
    ]


def _with_parent() -> list[str]:
    """What makes a program die with us, also when we are killed before bubblewrap has come to see to that.

    The signal is asked for first and the parent looked at then: between the two it cannot die unnoticed.
    """
    return ["setpriv", "--pdeathsig", "KILL", "sh", "-c", 'test "$PPID" = "$0" && exec "$@"', str(os.getpid())]


def _isolation() -> list[str]:
    isolation = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    isolation += ["--die-with-parent", "--new-session", "--clearenv", "--setenv", "PATH", "/usr/bin:/usr/sbin"]
    isolation += ["--cap-drop", "ALL"]
    if os.geteuid() == 0:
        # Root may be handed a descriptor of anybody's file, which /proc/self/fd opens again.
        return [*isolation, "--cap-add", "CAP_DAC_READ_SEARCH"]
    return [*isolation, "--unshare-user"]


def run(
    arguments: Sequence[str],
    *,
    read: Sequence[Path] = (),
    write: Sequence[Path] = (),
    descriptors: Sequence[int] = (),
    timeout: float,
) -> subprocess.CompletedProcess[str]:
    """Run a program confined to its end, within `timeout` seconds; raises ConfinedError when that is over."""
    try:
        return subprocess.run(
            command(arguments, read=read, write=write),
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ConfinedError(arguments[0], f"an end within {timeout:.0f} s", "none") from None


class Running:
    """A confined program in progress, and what it said last."""

    def __init__(self, process: "subprocess.Popen[bytes]", words: int) -> None:
        self.process = process
        self._words = words

    def words(self) -> str:
        """The last of what it wrote to standard error."""
        size = os.fstat(self._words).st_size
        return os.pread(self._words, _WORDS, max(size - _WORDS, 0)).decode(errors="replace").strip()


@contextmanager
def running(
    arguments: Sequence[str],
    *,
    read: Sequence[Path] = (),
    write: Sequence[Path] = (),
    descriptors: Sequence[int] = (),
    stdout: int | None = None,
) -> Iterator[Running]:
    """Run a program confined while the block lasts; it is killed at the end."""
    with tempfile.TemporaryFile() as words:
        process = subprocess.Popen(
            command(arguments, read=read, write=write),
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if stdout is None else stdout,
            stderr=words,
        )
        try:
            yield Running(process, words.fileno())
        finally:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()
