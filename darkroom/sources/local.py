"""A path: opened once, so that what is inspected is what is read."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from darkroom.errors import RefusedError
from darkroom.rawdisk import RawDisk, SourceChangedError
from darkroom.sources import Source, SourceDeniedError, SourceMissingError, hint_of


class SourceKindError(RefusedError):
    """The path names something that is no file: a folder, a pipe, a socket."""

    code = "source-kind"
    what = "this is neither a regular file nor a block device"


@contextmanager
def open_path(path: Path) -> Iterator[Source]:
    """A regular file or block device. Raises SourceMissingError, SourceDeniedError, SourceKindError."""
    fd = _open(path)
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
            raise SourceKindError(str(path), "a regular file", stat.filemode(mode))
        identity = _identity(fd)

        def check_unchanged() -> None:
            if _identity(fd) != identity:
                raise SourceChangedError(str(path), identity, _identity(fd))

        yield Source(
            str(path), path.name, identity, RawDisk(fd, str(path)), check_unchanged, fd, hint=hint_of(path.name)
        )
    finally:
        os.close(fd)


def _open(path: Path) -> int:
    try:
        # A pipe without a writer would block the open.
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL in the name
        raise SourceMissingError(str(path)) from None
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise SourceKindError(str(path), "a regular file", "a socket") from None
        raise SourceDeniedError(str(path), "", error.strerror or "") from None


def _identity(fd: int) -> str:
    found = os.fstat(fd)
    if stat.S_ISBLK(found.st_mode):  # its node tells neither the size nor when it was written to
        return f"device {os.major(found.st_rdev)}:{os.minor(found.st_rdev)} {os.lseek(fd, 0, os.SEEK_END)} bytes"
    return f"file {found.st_dev}:{found.st_ino} {found.st_size} bytes, written {found.st_mtime_ns}"
