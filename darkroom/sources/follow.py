"""Where an http(s) URL leads: through redirects, to an address that may be connected to.

Every host, that of a redirect too, is resolved once, its addresses are checked, and the connection goes to the very
address that was checked: neither a redirect nor a second answer of the name server leads inside.
"""

from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import SplitResult, urljoin, urlsplit

import urllib3

from darkroom.errors import RefusedError
from darkroom.settings import Settings
from darkroom.sources import SourceUnavailableError, SourceUrlError, addresses
from darkroom.sources.remote import CONNECTIONS

_REDIRECTS = 5
_TIMEOUT = urllib3.Timeout(connect=10, read=30)
_PORTS = {"http": 80, "https": 443}


class RedirectError(RefusedError):
    """The server redirects too often, or where a source may not be."""

    code = "redirect-refused"
    what = "the server redirects to where a source may not be"


@dataclass(frozen=True, slots=True)
class Place:
    """A URL with the connections to an address that it was found to have."""

    parts: SplitResult
    pool: urllib3.HTTPConnectionPool

    @property
    def shown(self) -> str:
        """The URL without its query, which may be a signature."""
        return self.parts._replace(query="", fragment="").geturl()

    def get(self, **headers: str) -> urllib3.BaseHTTPResponse:
        """The answer, its body unread; raises SourceUnavailableError."""
        target = (self.parts.path or "/") + (f"?{self.parts.query}" if self.parts.query else "")
        try:
            return self.pool.request(
                "GET",
                target,
                headers={"Host": self.parts.netloc, "Accept-Encoding": "identity", **headers},
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,  # the bytes as published, for which some servers claim Content-Encoding: gzip
                timeout=_TIMEOUT,
            )
        except urllib3.exceptions.HTTPError as error:
            raise SourceUnavailableError(self.shown, "", type(error).__name__) from error


def follow(url: str, settings: Settings, headers: dict[str, str]) -> tuple[Place, urllib3.BaseHTTPResponse]:
    """The first answer that is no redirect; each redirect is as suspect as the URL itself."""
    for _ in range(_REDIRECTS + 1):
        place, answer = _first_answer(_checked(url), settings, headers)
        if answer.status not in (301, 302, 303, 307, 308):
            return place, answer
        answer.close()
        place.pool.close()
        following = _joined(url, answer.headers.get("Location", ""))
        scheme = following.partition(":")[0]
        if scheme != "https" and (scheme != "http" or place.parts.scheme == "https"):
            raise RedirectError(place.shown, place.parts.scheme, scheme)
        url = following
    raise RedirectError(place.shown, f"at most {_REDIRECTS} redirects", "more")


def _joined(url: str, location: str) -> str:
    # A header is bytes, which the library reads as Latin-1; a text that is no URL is found so by _checked.
    with suppress(ValueError):
        return urljoin(url, location)
    return location


def _first_answer(
    parts: SplitResult, settings: Settings, headers: dict[str, str]
) -> tuple[Place, urllib3.BaseHTTPResponse]:
    """Ask each address of the host in turn, until one answers."""
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    last: SourceUnavailableError | None = None
    for address in addresses.resolve(host, port, settings.private_addresses):
        place = Place(parts, _pool(parts.scheme, host, address, port))
        try:
            return place, place.get(**headers)
        except SourceUnavailableError as error:
            place.pool.close()
            last = error
    raise last or SourceUnavailableError(host, "an address", "none")


def _pool(scheme: str, host: str, address: str, port: int) -> urllib3.HTTPConnectionPool:
    if scheme == "http":
        return urllib3.HTTPConnectionPool(address, port, maxsize=CONNECTIONS)
    return urllib3.HTTPSConnectionPool(
        address, port, maxsize=CONNECTIONS, server_hostname=host, assert_hostname=host, cert_reqs="CERT_REQUIRED"
    )


def _checked(url: str) -> SplitResult:
    """The parts of a URL with a host that can be asked for; raises SourceUrlError."""
    shown = url.partition("?")[0]
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        host.encode("ascii")
    except ValueError:
        raise SourceUrlError(f"{url.partition('://')[0]}://…", "http(s)://host/path", "another text") from None
    if "@" in parts.netloc:
        raise SourceUrlError(f"{parts.scheme}://…", "no credentials", "some")
    if parts.scheme not in _PORTS or not host or port == 0:
        raise SourceUrlError(shown, "http(s)://host/path", f"{parts.scheme}://{parts.netloc}")
    return parts
