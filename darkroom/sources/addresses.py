"""Which addresses a URL may lead to: public ones, whatever way they are spelt, unless a setting allows all."""

import ipaddress
import socket

from darkroom.errors import RefusedError
from darkroom.sources import SourceUnavailableError, SourceUrlError

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Public by their number, but answered by the host's own cloud with its credentials: Azure's wire server, Oracle's.
_METADATA = ("168.63.129.16", "192.0.0.192")


class AddressRefusedError(RefusedError):
    """The URL leads to an address inside, which a source may not."""

    code = "address-refused"
    what = "the URL leads to a private, loopback, link-local or otherwise special address"
    default_remedy = "set DARKROOM_PRIVATE_ADDRESSES=allow if such sources are meant to be read"


def resolve(host: str, port: int, private: bool) -> list[str]:
    """The addresses of a host, to connect to without asking again: a second answer may be another one.

    Decimal, octal and hexadecimal spellings are resolved first and checked then. Raises AddressRefusedError if any
    is not public and `private` is false, SourceUnavailableError, SourceUrlError.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise SourceUrlError(host, "the name of a host", "another") from None
    except OSError as error:
        raise SourceUnavailableError(host, "an address", error.strerror or "none") from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for address in addresses:
        if not private and not is_public(address):
            raise AddressRefusedError(host, "a public address", address)
    return addresses


def is_public(address: str) -> bool:
    """Whether anybody on the internet could reach this address, and the one that it may carry inside."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    inside = _inside(parsed)
    if inside is not None:
        return is_public(str(inside))
    special = parsed.is_reserved or parsed.is_multicast or getattr(parsed, "is_site_local", False)
    return parsed.is_global and not special and str(parsed) not in _METADATA


def _inside(address: _Address) -> _Address | None:
    """The IPv4 address that a mapped (RFC 4291) or 6to4 (RFC 3056) address leads to."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    return address.ipv4_mapped or address.sixtofour
