"""An http(s) URL: ranged reads where the server can, else one download into the spool.

Every host, that of a redirect too, is resolved once, its addresses are checked, and the connection goes to the very
address that was checked: neither a redirect nor a second answer of the name server leads inside.
"""

import ipaddress
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urljoin, urlsplit

import urllib3

from darkroom.errors import DarkroomError, RefusedError
from darkroom.model import MiB
from darkroom.rawdisk import RawDisk, SourceChangedError
from darkroom.settings import Settings
from darkroom.sources import Source, SourceUnavailableError, hint_of, spool
from darkroom.sources.local import SourceDeniedError, SourceMissingError
from darkroom.sources.remote import WindowReader

_REDIRECTS = 5
_TRIES = 4
_TIMEOUT = urllib3.Timeout(connect=10, read=30)
_PIECE = 1 * MiB
_PORTS = {"http": 80, "https": 443}


class AddressRefusedError(RefusedError):
    """The URL leads to an address inside, which a source may not."""

    code = "address-refused"
    what = "the URL leads to a private, loopback, link-local or otherwise special address"
    default_remedy = "set DARKROOM_PRIVATE_ADDRESSES=allow if such sources are meant to be read"


class RedirectError(RefusedError):
    """The server redirects too often, or where a source may not be."""

    code = "redirect-refused"
    what = "the server redirects to where a source may not be"


@dataclass(frozen=True, slots=True)
class _Place:
    """A URL with the connections to the address that it was found to have."""

    url: str
    parts: SplitResult
    pool: urllib3.HTTPConnectionPool

    @property
    def shown(self) -> str:
        return self.parts._replace(query="", fragment="").geturl()

    def get(self, **headers: str) -> urllib3.BaseHTTPResponse:
        target = self.parts._replace(scheme="", netloc="", fragment="").geturl() or "/"
        try:
            return self.pool.request(
                "GET",
                target,
                headers={"Host": self.parts.netloc, "Accept-Encoding": "identity", **headers},
                redirect=False,
                retries=False,
                preload_content=False,
                timeout=_TIMEOUT,
            )
        except urllib3.exceptions.HTTPError as error:
            raise SourceUnavailableError(self.shown, "", type(error).__name__) from error


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the first answer tells: the version, the size if it is known, and whether ranges are served."""

    version: str
    size: int | None
    ranged: bool

    def identity(self, place: _Place) -> str:
        return f"{place.shown} version {self.version} {self.size} bytes"


def identify(url: str, settings: Settings) -> tuple[str, str]:
    """The URL without its query, and the identity of what is there now."""
    place, first = _follow(url, settings)
    first.close()
    place.pool.close()
    return place.shown, _read(first).identity(place)


@contextmanager
def open_url(url: str, settings: Settings, folder: Path) -> Iterator[Source]:
    """The file at `url`. Raises SourceMissingError, SourceDeniedError, AddressRefusedError, RedirectError."""
    place, first = _follow(url, settings)
    name = place.parts.path.rpartition("/")[2] or place.parts.netloc
    try:
        answer = _read(first)
        if answer.ranged and answer.size is not None:
            reader = _ranged(place, answer.size, answer.version)
            yield Source(place.shown, name, answer.identity(place), reader, lambda: None, hint=hint_of(name))
        else:
            with _spooled(place, first, name, answer, settings, folder) as source:
                yield source
    finally:
        first.close()
        place.pool.close()


def _read(first: urllib3.BaseHTTPResponse) -> _Answer:
    headers, ranged = first.headers, first.status == 206
    total = headers.get("Content-Range", "").rpartition("/")[2] if ranged else headers.get("Content-Length", "")
    size = int(total) if total.isdigit() else None
    return _Answer(headers.get("ETag") or headers.get("Last-Modified") or "", size, ranged)


@contextmanager
def _spooled(
    place: _Place,
    first: urllib3.BaseHTTPResponse,
    name: str,
    answer: _Answer,
    settings: Settings,
    folder: Path,
) -> Iterator[Source]:
    size, identity = answer.size, answer.identity(place)

    def pieces() -> Iterator[bytes]:
        count = 0
        try:
            for piece in first.stream(_PIECE):
                count += len(piece)
                yield piece
        except urllib3.exceptions.HTTPError as error:
            raise SourceUnavailableError(place.shown, "", type(error).__name__) from error
        if size is not None and count != size:
            raise SourceUnavailableError(place.shown, f"{size} bytes", f"{count}")

    path = spool.file_of(folder, "download", identity, pieces, settings.limits.virtual_size)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield Source(place.shown, name, identity, RawDisk(fd, name), lambda: None, fd, hint=hint_of(name))
    finally:
        os.close(fd)


def _ranged(place: _Place, size: int, version: str) -> WindowReader:
    def fetch(offset: int, length: int) -> bytes:
        for attempt in range(1, _TRIES + 1):
            try:
                return _fetch(place, size, version, offset, length)
            except SourceUnavailableError:
                if attempt == _TRIES:
                    raise
        raise AssertionError

    return WindowReader(size, fetch)


def _fetch(place: _Place, size: int, version: str, offset: int, length: int) -> bytes:
    answer = place.get(Range=f"bytes={offset}-{offset + length - 1}")
    try:
        if answer.status >= 500 or answer.status == 429:
            raise SourceUnavailableError(place.shown, "status 206", f"status {answer.status}")
        found = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        wanted = f"bytes {offset}-{offset + length - 1}/{size}"
        if answer.status != 206 or found != version or answer.headers.get("Content-Range") != wanted:
            raise SourceChangedError(place.shown, f"{wanted} of {version or 'the same'}", f"status {answer.status}")
        data = answer.read(length)
    except urllib3.exceptions.HTTPError as error:
        raise SourceUnavailableError(place.shown, "", type(error).__name__) from error
    finally:
        answer.release_conn() if answer.length_remaining == 0 else answer.close()
    if len(data) != length:
        raise SourceUnavailableError(place.shown, f"{length} bytes at {offset}", f"{len(data)}")
    return data


def _follow(url: str, settings: Settings) -> tuple[_Place, urllib3.BaseHTTPResponse]:
    """Ask for the first byte, through redirects that are allowed; the answer to it."""
    for _ in range(_REDIRECTS + 1):
        place = _place(url, settings)
        answer = place.get(Range="bytes=0-0")
        if answer.status in (301, 302, 303, 307, 308):
            answer.close()
            following = urljoin(url, answer.headers.get("Location", ""))
            if urlsplit(url).scheme == "https" and urlsplit(following).scheme != "https":
                raise RedirectError(place.shown, "https", urlsplit(following).scheme)
            url = following
            continue
        if answer.status not in (200, 206):
            answer.close()
            raise _refusal(place.shown, answer.status)
        return place, answer
    raise RedirectError(place.shown, f"at most {_REDIRECTS} redirects", "more")


def _refusal(shown: str, status: int) -> DarkroomError:
    if status in (404, 410):
        return SourceMissingError(shown)
    if status in (401, 403):
        return SourceDeniedError(shown, "", f"status {status}")
    return SourceUnavailableError(shown, "status 200", f"status {status}")


def _place(url: str, settings: Settings) -> _Place:
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname or "@" in parts.netloc:
        raise RedirectError(parts._replace(query="").geturl(), "http(s)://host/path", f"{parts.scheme}://")
    port = parts.port or _PORTS[parts.scheme]
    address = _address(parts.hostname, port, settings)
    if parts.scheme == "http":
        return _Place(url, parts, urllib3.HTTPConnectionPool(address, port, maxsize=8))
    host = parts.hostname
    pool = urllib3.HTTPSConnectionPool(address, port, maxsize=8, server_hostname=host, assert_hostname=host)
    return _Place(url, parts, pool)


def _address(host: str, port: int, settings: Settings) -> str:
    """The address to connect to; other spellings of one (decimal, octal) are what the resolver makes of them."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise SourceUnavailableError(host, "an address", error.strerror or "none") from error
    addresses = [str(entry[4][0]) for entry in found]
    for address in addresses:
        parsed = ipaddress.ip_address(address.partition("%")[0])
        inner = getattr(parsed, "ipv4_mapped", None) or parsed
        if not settings.private_addresses and (not inner.is_global or inner.is_multicast):
            raise AddressRefusedError(host, "a public address", address)
    return addresses[0]
