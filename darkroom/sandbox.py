"""Programs that parse untrusted bytes, confined by bubblewrap.

A confined program has no network, no processes but its own, and a file system of /usr, a private /tmp, what is bound
on purpose, and the descriptors that it is given. It has no capability in a user namespace of its own, bounded memory,
open files and file sizes, and it ends with the process that started it, however that ends.
"""

import os
import shutil
import stat
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
_ENDING = 5.0
_ISOLATION = (
    *("--unshare-user", "--disable-userns", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"),
    *("--unshare-cgroup-try", "--die-with-parent", "--new-session", "--cap-drop", "ALL"),
    *("--clearenv", "--setenv", "PATH", "/usr/bin:/usr/sbin"),
)
# To root's files below /proc/sys no capability is needed, and bubblewrap leaves them writable: hence the remount.
_SYSTEM = (
    *("--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin"),
    *("--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64"),
    *("--proc", "/proc", "--remount-ro", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"),  # noqa: S108 - its own
)
# Between its start and its call of prctl a program does not notice that its parent dies, so --die-with-parent alone
# leaves it behind when that happens in its first milliseconds. A pipe from the parent tells at any time.
_UNTIL_PARENT_ENDS = 'exec {0}<&0 </dev/null; (read -r _ <&{0}; kill -9 $$) & exec "$@" {0}<&-'


class SandboxMissingError(DarkroomError):
    """Bubblewrap is not installed, and nothing untrusted is parsed without it."""

    code = "sandbox-missing"
    what = "this program is needed to confine others"
    default_remedy = "run `make setup`, or install the packages bubblewrap and util-linux"


class SandboxRefusedError(DarkroomError):
    """The system does not let bubblewrap confine a program."""

    code = "sandbox-refused"
    what = "the program cannot be confined"
    default_remedy = "allow user namespaces: sysctl user.max_user_namespaces, and unprivileged ones if not run as root"


def command(
    arguments: Sequence[str],
    *,
    read: Sequence[Path] = (),
    write: Sequence[Path] = (),
    descriptors: Sequence[int] = (),
    file_size: int,
) -> list[str]:
    """The command that runs `arguments` confined until its standard input ends.

    `read` and `write` are bound at their own paths, `descriptors` are left as they are; `file_size` bounds each file
    that it writes, in bytes. Raises SandboxMissingError.
    """
    for program in ("bwrap", "prlimit"):
        if shutil.which(program) is None:
            raise SandboxMissingError(program)
    limits = [f"--as={MEMORY}", f"--nofile={_OPEN_FILES}", "--core=0", f"--fsize={file_size}"]
    binds = [word for path in read for word in ("--ro-bind", str(path), str(path))]
    binds += [word for path in write for word in ("--bind", str(path), str(path))]
    pipe = next(number for number in range(3, 10) if number not in descriptors)
    shell = ["sh", "-c", _UNTIL_PARENT_ENDS.format(pipe), "sh"]
    return ["prlimit", *limits, "bwrap", *_ISOLATION, *_SYSTEM, *binds, "--chdir", "/", "--", *shell, *arguments]


def can_reopen(fd: int) -> bool:
    """Whether a confined program may open the file of a descriptor again, by /proc/self/fd.

    Root opens anybody's files by a capability, which a confined program does not have.
    """
    found = os.fstat(fd)
    wanted = stat.S_IRUSR if found.st_uid == os.geteuid() else stat.S_IRGRP | stat.S_IROTH
    return os.geteuid() != 0 or found.st_mode & wanted == wanted


class Running:
    """A confined program in progress, and what it said last."""

    def __init__(self, process: "subprocess.Popen[bytes]", words: int) -> None:
        self.process = process
        self._words = words

    def words(self) -> str:
        """The last of what it wrote to standard error; raises SandboxRefusedError if it was never started."""
        size = os.fstat(self._words).st_size
        words = os.pread(self._words, _WORDS, max(size - _WORDS, 0)).decode(errors="replace").strip()
        if words.startswith("bwrap: "):
            raise SandboxRefusedError("bubblewrap", "", words)
        return words


@contextmanager
def running(
    arguments: Sequence[str],
    *,
    read: Sequence[Path] = (),
    write: Sequence[Path] = (),
    descriptors: Sequence[int] = (),
    stdout: int = subprocess.DEVNULL,
    file_size: int,
) -> Iterator[Running]:
    """Run a program confined while the block lasts, in the thread that entered it; it is ended with it."""
    with tempfile.TemporaryFile() as words:
        process = subprocess.Popen(
            command(arguments, read=read, write=write, descriptors=descriptors, file_size=file_size),
            pass_fds=descriptors,
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=words,
        )
        try:
            yield Running(process, words.fileno())
        finally:
            _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a program by the end of its standard input; a bubblewrap killed while it starts would leave its child."""
    assert process.stdin
    process.stdin.close()
    try:
        process.wait(_ENDING)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout:
        process.stdout.close()
