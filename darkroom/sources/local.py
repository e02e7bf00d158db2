"""A path: opened once, so that what is inspected is what is read."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from darkroom.errors import MissingError, RefusedError
from darkroom.rawdisk import RawDisk, SourceChangedError
from darkroom.sources import Source, hint_of


class SourceMissingError(MissingError):
    """There is no file, object or export at the address of a source."""

    code = "source-not-found"
    what = "there is no such file"


class SourceDeniedError(RefusedError):
    """The source may not be read by this account."""

    code = "source-denied"
    what = "the source may not be read"
    default_remedy = "give this account the right to read it"


class SourceKindError(RefusedError):
    """The path names something that is no file: a folder, a pipe, a socket."""

    code = "source-kind"
    what = "this is neither a regular file nor a block device"


@contextmanager
def open_path(path: Path) -> Iterator[Source]:
    """A regular file or block device. Raises SourceMissingError, SourceDeniedError, SourceKindError."""
    try:
        # A pipe without a writer would block the open.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        raise SourceMissingError(str(path)) from None
    except OSError as error:
        raise SourceDeniedError(str(path), "", error.strerror or "") from None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) and not stat.S_ISBLK(found.st_mode):
            raise SourceKindError(str(path), "a regular file", stat.filemode(found.st_mode))
        identity = _identity(fd)

        def check_unchanged() -> None:
            if _identity(fd) != identity:
                raise SourceChangedError(str(path), identity, _identity(fd))

        yield Source(
            str(path), path.name, identity, RawDisk(fd, str(path)), check_unchanged, fd, hint=hint_of(path.name)
        )
    finally:
        os.close(fd)


def _identity(fd: int) -> str:
    found = os.fstat(fd)
    return f"file {found.st_dev}:{found.st_ino} {found.st_size} bytes, written {found.st_mtime_ns}"
