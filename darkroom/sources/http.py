"""An http(s) URL: ranged reads where the server can, else one download into the spool."""

import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import urllib3

from darkroom.errors import DarkroomError, RefusedError
from darkroom.model import KiB, MiB
from darkroom.rawdisk import RawDisk, SourceChangedError
from darkroom.settings import Settings
from darkroom.sources import (
    Progress,
    Source,
    SourceDeniedError,
    SourceMissingError,
    SourceUnavailableError,
    follow,
    hint_of,
    spool,
)
from darkroom.sources.remote import WindowReader, retried

_PIECE = 1 * MiB
_PATIENCE = 60.0
_SLOWEST = 8 * KiB
_RANGE = re.compile(r"bytes 0-0/([0-9]{1,19})")


class SourceAnswerError(RefusedError):
    """The server answers what a file cannot safely be read from."""

    code = "source-answer"
    what = "the server's answer cannot be used"
    default_remedy = "download the file with another program, and import it from its path"


@dataclass(frozen=True, slots=True)
class _Found:
    """Where the file is in the end, which version of it, its size if that is known, and whether ranges are served."""

    place: follow.Place
    answer: urllib3.BaseHTTPResponse
    version: str
    size: int | None
    ranged: bool

    @property
    def identity(self) -> str:
        return f"{self.place.shown} version {self.version} {self.size} bytes"

    def close(self) -> None:
        self.answer.close()
        self.place.pool.close()


def identify(url: str, settings: Settings) -> tuple[str, str]:
    """The URL without its query, and the identity of what is there now."""
    found = _find(url, settings)
    found.close()
    return found.place.shown, found.identity


@contextmanager
def open_url(url: str, settings: Settings, folder: Path, progress: Progress) -> Iterator[Source]:
    """The file at `url`. Raises SourceMissingError, SourceDeniedError, AddressRefusedError, RedirectError and more."""
    found = _find(url, settings)
    shown, identity = found.place.shown, found.identity
    name = unquote(found.place.parts.path.rpartition("/")[2]) or found.place.parts.netloc
    with ExitStack() as stack:
        stack.callback(found.close)
        if found.ranged and found.size is not None:
            ranged = _Ranged(url, settings, found)
            stack.callback(ranged.close)
            reader = WindowReader(shown, found.size, ranged.fetch)
            yield Source(shown, name, identity, reader, ranged.check_unchanged, hint=hint_of(name))
        else:
            fd = os.open(_spooled(url, settings, found, folder, progress), os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            yield Source(shown, name, identity, RawDisk(fd, name), lambda: None, fd, hint=hint_of(name))


def _spooled(url: str, settings: Settings, found: _Found, folder: Path, progress: Progress) -> Path:
    """The whole file in the spool, from the answer that is open or, if it breaks off, from another."""
    path, shown = spool.path_of(folder, "download", found.identity), found.place.shown

    def download(answered: _Found) -> Path:
        limit = settings.limits.virtual_size
        return spool.file_of(path, shown, lambda: _download(answered, progress), limit)

    def again() -> Path:
        with closing(_same(_find(url, settings), found)) as answered:
            return download(answered)

    try:
        return download(found)
    except SourceUnavailableError:
        return retried(again)


def _same(again: _Found, found: _Found) -> _Found:
    """What was found again, if it is what was found first; raises SourceChangedError."""
    if again.identity != found.identity:
        again.close()
        raise SourceChangedError(found.place.shown, found.identity, again.identity)
    return again


class _Ranged:
    """Ranged reads of one version of a file.

    Where the place no longer answers, the URL is followed again: a signed redirect expires, an address goes away.
    """

    def __init__(self, url: str, settings: Settings, found: _Found) -> None:
        self._url, self._settings, self._found = url, settings, found
        self._lost = False
        self._lock = threading.Lock()
        found.answer.close()

    def fetch(self, offset: int, length: int) -> bytes:
        """The bytes of the pinned version; raises SourceUnavailableError, SourceChangedError."""
        found = self._there()
        try:
            return _fetch(found, offset, length)
        except SourceUnavailableError:
            with self._lock:
                self._lost = self._lost or self._found is found
            raise

    def check_unchanged(self) -> None:
        """Raise SourceChangedError if the server has another version now."""
        if self._found.size:
            retried(lambda: self.fetch(0, 1))

    def close(self) -> None:
        self._found.close()

    def _there(self) -> _Found:
        with self._lock:
            if self._lost:
                again = _same(_find(self._url, self._settings), self._found)
                again.answer.close()
                self._found.close()
                self._found, self._lost = again, False
            return self._found


def _fetch(found: _Found, offset: int, length: int) -> bytes:
    shown, wanted = found.place.shown, f"bytes {offset}-{offset + length - 1}/{found.size}"
    answer = found.place.get(Range=f"bytes={offset}-{offset + length - 1}")
    try:
        if answer.status >= 400 and answer.status != 416:
            raise SourceUnavailableError(shown, "status 206", f"status {answer.status}")
        content = answer.headers.get("Content-Range", "")
        if answer.status != 206 or content != wanted or _version(answer) != found.version:
            seen = f"status {answer.status}, {content or 'no range'}, version {_version(answer)}"
            raise SourceChangedError(shown, f"{wanted}, version {found.version}", seen)
        data = b"".join(_body(answer, shown, length))
        if len(data) != length:
            raise SourceUnavailableError(shown, f"{length} bytes at {offset}", f"{len(data)}")
        return data
    finally:
        # Only a connection with nothing left in it serves the next request.
        answer.release_conn() if answer.length_remaining == 0 else answer.close()


def _download(found: _Found, progress: Progress) -> Iterator[bytes]:
    """The whole body, of the length that it was said to have (urllib3 sees to that), or ended by its last chunk.

    One whose end cannot be told from a connection that broke is refused.
    """
    shown, size, count = found.place.shown, found.size, 0
    if size is None and not getattr(found.answer, "chunked", False):
        raise SourceAnswerError(shown, "ranges, a length or chunks", "none of them")
    for piece in _body(found.answer, shown, None):
        count += len(piece)
        progress(count, size or 0)
        yield piece


def _body(answer: urllib3.BaseHTTPResponse, shown: str, length: int | None) -> Iterator[bytes]:
    """Pieces of the body up to `length`; a server that only dribbles is given up."""
    begun, count = time.monotonic(), 0
    try:
        while length is None or count < length:
            piece = answer.read1(_PIECE if length is None else min(_PIECE, length - count))
            if not piece:
                return
            count += len(piece)
            yield piece
            if time.monotonic() - begun > _PATIENCE + count / _SLOWEST:
                raise SourceUnavailableError(shown, f"{_SLOWEST} bytes a second", "fewer")
    except urllib3.exceptions.HTTPError as error:
        raise SourceUnavailableError(shown, "", type(error).__name__) from error


def _version(answer: urllib3.BaseHTTPResponse) -> str:
    return answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""


def _find(url: str, settings: Settings) -> _Found:
    """Follow the URL to where the file is, and ask for its first byte; the answer is left to be read.

    A server that answers another range than that, or does not tell the size or version, is asked for the whole.
    """
    place, answer = follow.follow(url, settings, {"Range": "bytes=0-0"})
    if answer.status == 206:
        total = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if total and _version(answer):  # without a version, two ranges could be of two files
            return _Found(place, answer, _version(answer), int(total[1]), ranged=True)
        answer.close()
        place.pool.close()
        place, answer = follow.follow(url, settings, {})
    if answer.status != 200:
        answer.close()
        place.pool.close()
        raise _refusal(place.shown, answer.status)
    length = answer.headers.get("Content-Length", "")
    size = int(length) if re.fullmatch("[0-9]{1,19}", length) else None
    return _Found(place, answer, _version(answer), size, ranged=False)


def _refusal(shown: str, status: int) -> DarkroomError:
    if status in (404, 410):
        return SourceMissingError(shown)
    if status in (401, 403, 407, 451):
        return SourceDeniedError(shown, "", f"status {status}")
    if status >= 500 or status in (408, 425, 429):
        return SourceUnavailableError(shown, "status 200", f"status {status}")
    return SourceAnswerError(shown, "status 200", f"status {status}")
