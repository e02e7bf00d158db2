"""The spool: where a stream becomes a file of random access; sparse, bounded, and whole or not there."""

import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from darkroom.errors import RefusedError, UnavailableError
from darkroom.model import KiB, MiB

_PIECE = 64 * KiB
_RESERVE = 64 * MiB


class TooLargeError(RefusedError):
    """A stream brings more bytes than a source may."""

    code = "source-too-large"
    what = "the source holds more than is accepted"


class ExpansionError(RefusedError):
    """A small compressed file decompresses to very much: it is made to fill disks."""

    code = "expansion-bomb"
    what = "the source expands beyond the accepted ratio"


class SpoolFullError(UnavailableError):
    """There is no room to decompress or download to."""

    code = "spool-full"
    what = "there is not enough room in the spool"
    default_remedy = "make room below DARKROOM_HOME, then run the same command again"
    retryable = False


def file_of(folder: Path, name: str, identity: str, pieces: Callable[[], Iterable[bytes]], limit: int) -> Path:
    """The file `name` in `folder` with what `pieces()` yields, written once for an `identity`.

    Zeros become holes. Raises TooLargeError above `limit` bytes, SpoolFullError, and what the pieces raise.
    """
    path, label = folder / name, folder / f"{name}.json"
    if path.exists() and label.exists() and json.loads(label.read_text()) == identity:
        return path
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = folder / f"{name}.part"
    try:
        with open(part, "wb", buffering=0) as file:
            os.ftruncate(file.fileno(), _copy(pieces(), file.fileno(), folder, limit))
            os.fsync(file.fileno())
    except OSError as error:
        part.unlink(missing_ok=True)
        raise SpoolFullError(str(folder), "", error.strerror or "") from error
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    part.rename(path)
    label.write_text(json.dumps(identity))
    return path


def _copy(pieces: Iterable[bytes], fd: int, folder: Path, limit: int) -> int:
    """Write the pieces, return the size; keeps some room free for everybody else on the file system."""
    size = checked = 0
    zeros = bytes(_PIECE)
    for piece in pieces:
        if size + len(piece) > limit:
            raise TooLargeError(str(folder.name), f"at most {limit} bytes", "more")
        for at in range(0, len(piece), _PIECE):
            part = piece[at : at + _PIECE]
            if part != zeros[: len(part)]:
                os.pwrite(fd, part, size + at)
        size += len(piece)
        if size - checked > _RESERVE:
            checked = size
            if shutil.disk_usage(folder).free < _RESERVE:
                raise SpoolFullError(str(folder), f"{_RESERVE} bytes to spare", "fewer")
    return size
