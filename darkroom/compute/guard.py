"""A guard: a process that cleans up on the host when the one that started it dies, however it dies.

python -m darkroom.compute.guard URI FOLDER    with the life line as standard input
"""

import fcntl
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from darkroom.compute import connection
from darkroom.errors import DarkroomError

Kind = Literal["backup", "guest"]
_DONE = b"done"
_RECORD = "guard.json"
_ENDING = 10.0


class GuardError(DarkroomError):
    """The guard does not start, and nothing is begun without it."""

    code = "guard-failed"
    what = "the process that would clean up after this one does not start"


@contextmanager
def guarded(
    uri: str, kind: Literal["backup", "guest"], uuid: UUID, folder: Path, checkpoint: str = ""
) -> Iterator[None]:
    """For the block: should this process die in it, the backup or the guest ends, and `folder`, which exists, goes.

    What that is stands in a file there, which is locked while this process lives. Raises GuardError.
    """
    command = [sys.executable, "-m", "darkroom.compute.guard", uri, str(folder)]
    pipe = subprocess.PIPE
    with open(folder / _RECORD, "w") as record:
        fcntl.flock(record, fcntl.LOCK_EX)
        json.dump({"kind": kind, "uuid": str(uuid), "checkpoint": checkpoint}, record)
        record.flush()
        # A session of its own: what ends this process' group, such as ctrl-C, leaves the guard to its work.
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd="/", start_new_session=True) as process:
            assert process.stdin
            assert process.stdout
            if process.stdout.read(1) != b"r":
                raise GuardError(kind)
            try:
                yield
            finally:
                process.stdin.write(_DONE)
                process.stdin.close()
                process.wait(_ENDING)


def has_left(run: Path) -> bool:
    """Whether there is anything below `run` that `sweep` would look at."""
    return any(run.glob(f"*/{_RECORD}"))


def sweep(host: Any, run: Path) -> None:
    """Clean up after processes that died together with their guards, by what they left in folders below `run`."""
    for record in run.glob(f"*/{_RECORD}"):
        with suppress(OSError), open(record) as opened:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _clean(host, record.parent)


def _clean(host: Any, folder: Path) -> None:
    from darkroom.compute import backup, throwaway  # noqa: PLC0415 - they import this module

    with suppress(OSError, ValueError):  # another one was faster; or it died before it began anything
        record = json.loads((folder / _RECORD).read_text())
        if record["kind"] == "backup":
            backup.tidy(host, UUID(record["uuid"]), folder, record["checkpoint"])
        else:
            throwaway.tidy(host, UUID(record["uuid"]), folder)
    shutil.rmtree(folder, ignore_errors=True)


def main(uri: str, folder: str) -> None:
    """Wait for the end of standard input; clean up unless it says that all is done."""
    sys.stdout.write("r")
    sys.stdout.flush()
    if sys.stdin.buffer.read() != _DONE:
        with connection.open(uri) as host:
            _clean(host, Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
