"""The spool: where a stream becomes a file of random access; sparse, bounded, and whole or not there."""

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from darkroom.errors import RefusedError, UnavailableError
from darkroom.model import KiB, MiB

_PIECE = 64 * KiB
_RESERVE = 64 * MiB
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class TooLargeError(RefusedError):
    """A stream brings more bytes than a source may."""

    code = "source-too-large"
    what = "the source holds more than is accepted"


class ExpansionError(RefusedError):
    """A small compressed file decompresses to very much: it is made to fill disks."""

    code = "expansion-bomb"
    what = "the source expands beyond the accepted ratio"
    default_remedy = "if you trust it, decompress it yourself and import the result"


class SpoolFullError(UnavailableError):
    """There is no room to decompress or download to."""

    code = "spool-full"
    what = "there is not enough room in the spool"
    default_remedy = "make room below DARKROOM_HOME, then run the same command again"
    retryable = False


class SpoolError(UnavailableError):
    """The spool cannot be written for another reason than its size."""

    code = "spool-unusable"
    what = "the spool cannot be written"
    default_remedy = "check the file system below DARKROOM_HOME, then run the same command again"
    retryable = False


def path_of(folder: Path, kind: str, identity: str) -> Path:
    """Where in `folder` that is kept which was made of the source with this identity."""
    return folder / f"{kind}-{hashlib.sha256(identity.encode()).hexdigest()[:32]}"


def file_of(path: Path, which: str, pieces: Callable[[], Iterable[bytes]], limit: int) -> Path:
    """The file at `path` with what `pieces()` yields, written once: another call, in any process, finds it.

    Zeros become holes. Raises TooLargeError above `limit` bytes, SpoolFullError, SpoolError, and what the pieces
    raise; nothing is left of a file that did not get whole.
    """
    if path.exists():
        return path
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(path.parent / "lock", "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():
                return path
            try:
                _write(part, which, pieces(), limit)
                part.rename(path)
            finally:
                part.unlink(missing_ok=True)
    except OSError as error:
        raise _failure(path.parent, error) from error
    return path


def _failure(folder: Path, error: OSError) -> UnavailableError:
    kind = SpoolFullError if error.errno in _FULL else SpoolError
    return kind(str(folder), "", error.strerror or type(error).__name__)


def _write(part: Path, which: str, pieces: Iterable[bytes], limit: int) -> None:
    """Write the pieces to a new file; keeps some room free for everybody else on the file system."""
    size = checked = 0
    with open(part, "wb", buffering=0) as file:
        for piece in pieces:
            if size + len(piece) > limit:
                raise TooLargeError(which, f"at most {limit} bytes", "more")
            _write_sparse(file.fileno(), memoryview(piece), size)
            size += len(piece)
            if size - checked > _RESERVE:
                checked = size
                if shutil.disk_usage(part.parent).free < _RESERVE:
                    raise SpoolFullError(str(part.parent), f"{_RESERVE} bytes to spare", "fewer")
        os.ftruncate(file.fileno(), size)
        os.fsync(file.fileno())


def _write_sparse(fd: int, piece: memoryview, offset: int) -> None:
    """Write what is not zeros, cut where the file's own multiples of 64 KiB are."""
    zeros = bytes(_PIECE)
    at = 0
    while at < len(piece):
        part = piece[at : at + _PIECE - (offset + at) % _PIECE]
        if part != zeros[: len(part)]:
            written = 0
            while written < len(part):  # a disk that fills up takes a part before it says so
                written += os.pwrite(fd, part[written:], offset + at + written)
        at += len(part)
