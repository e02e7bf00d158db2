"""Where disk images come from: a path, s3://, http(s):// or nbd://, compressed or not, alone or in an OVA.

Whatever it is becomes a `Source`: the bytes of one disk image file as a Reader. What has to be random access and is
not (a compressed file, a server without ranges) is written to the spool first, sparse and bounded.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import blake3

from darkroom.errors import MissingError, RefusedError, UnavailableError
from darkroom.model import MiB, Reader
from darkroom.rawdisk import SourceChangedError
from darkroom.settings import Settings

Progress = Callable[[int, int], None]
FORMATS = ("raw", "qcow2", "qcow", "qed", "vmdk", "vhd", "vhdx", "vdi", "iso")
_SUFFIXES = {name: name for name in FORMATS} | {"img": "", "zvhd": "zvhd", "zvhd2": "zvhd2", "vpc": "vhd"}
_SIGNED = {"x-amz-signature", "x-amz-credential", "x-amz-security-token", "x-goog-signature"}
_SIGNED |= {"signature", "sig", "token", "access_token"}
"""Parameters of a query that are credentials in themselves."""
_PIECE = 4 * MiB
_HASHERS: dict[str, Callable[[], Any]] = {
    **{name: getattr(hashlib, name) for name in ("sha256", "sha512", "sha384", "blake2b", "sha1", "md5")},
    "blake3": blake3.blake3,
}


class SourceUrlError(RefusedError):
    """The address of a source is not one that Darkroom reads from."""

    code = "source-url"
    what = "this source cannot be read from"
    default_remedy = "give a path, s3://bucket/key, http(s)://host/path or nbd://host/export, without credentials"


class SourceMissingError(MissingError):
    """There is no file, object or export at the address of a source."""

    code = "source-not-found"
    what = "there is no such file"


class SourceDeniedError(RefusedError):
    """The source may not be read by this account."""

    code = "source-denied"
    what = "the source may not be read"
    default_remedy = "give this account the right to read it"


class SourceUnavailableError(UnavailableError):
    """The server of a source does not answer, or breaks off."""

    code = "source-unavailable"
    what = "the source does not answer"


class DigestMismatchError(RefusedError):
    """The file is not the one that its publisher made."""

    code = "digest-mismatch"
    what = "the file does not have the digest that was declared"
    default_remedy = "download it again, and take the digest from its publisher"


class DigestFormatError(RefusedError):
    """A declared digest that cannot be compared."""

    code = "digest-format"
    what = "the declared digest cannot be compared"
    default_remedy = f"give ALGORITHM:HEX with one of {', '.join(_HASHERS)}"


@dataclass(frozen=True, slots=True)
class Source:
    """The bytes of one disk image file."""

    url: str
    """Safe to show and store: no credentials, no signature."""
    name: str
    identity: str
    """Equal as long as the content is the same; what an import that was killed goes on with."""
    reader: Reader
    check_unchanged: Callable[[], None]
    """Raises SourceChangedError if the identity no longer holds."""
    fd: int | None = None
    """A descriptor, when the bytes are a local file or a part of one."""
    fd_range: tuple[int, int] | None = None
    """Offset and size of that part."""
    hint: str = ""
    """The format that the name declares."""
    is_disk: bool = False
    """The bytes are the disk itself (nbd://), not a file in some format."""
    published: Reader | None = None
    """The bytes that a publisher's digest is of, where they are others than `reader`'s."""
    properties: dict[str, str] = field(default_factory=dict)
    """What an OVF tells of the server: name, os, firmware, manifest (verified or none)."""
    further: tuple["Source", ...] = ()
    """The other disks of an OVA, in order; this one is the first."""

    @property
    def disks(self) -> tuple["Source", ...]:
        """The source of each disk, the system disk first."""
        return (self, *self.further)


def identify(url: str, settings: Settings) -> tuple[str, str]:
    """The address of a source, safe to show, and its identity; neither downloads nor decompresses."""
    parts = _split(url)
    if parts.scheme in ("http", "https"):
        from darkroom.sources import http  # noqa: PLC0415

        return http.identify(url, settings)
    with open_address(url, settings, settings.spool) as source:
        return source.url, source.identity


@contextmanager
def open_address(
    url: str, settings: Settings, spool: Path, progress: Progress = lambda done, total: None
) -> Iterator[Source]:
    """The published file as it is: neither decompressed nor unpacked. Raises SourceUrlError and what opening raises."""
    parts = _split(url)
    with ExitStack() as stack:
        if parts.scheme == "file":
            from darkroom.sources import local  # noqa: PLC0415

            source = stack.enter_context(local.open_path(Path(parts.path)))
        elif parts.scheme == "s3":
            from darkroom.sources import s3  # noqa: PLC0415 - boto3 takes 0.2 s to import

            source = stack.enter_context(s3.open_object(url, settings))
        elif parts.scheme in ("http", "https"):
            from darkroom.sources import http  # noqa: PLC0415

            source = stack.enter_context(http.open_url(url, settings, spool, progress))
        else:
            from darkroom.sources import nbd  # noqa: PLC0415

            source = stack.enter_context(nbd.open_export(url))
        yield source


@contextmanager
def open_source(
    url: str, settings: Settings, spool: Path, progress: Progress = lambda done, total: None
) -> Iterator[Source]:
    """One disk image file at `url`: decompressed into `spool` if it is compressed, taken out of its OVA if in one."""
    from darkroom.sources import compressed, ova  # noqa: PLC0415

    with ExitStack() as stack:
        source = stack.enter_context(open_address(url, settings, spool, progress))
        if not source.is_disk:
            published = source.reader
            source = stack.enter_context(compressed.opened(source, settings, spool, progress))
            source = ova.opened(source, spool, progress)
            source = replace(source, published=published)
        yield source


def is_local(url: str) -> bool:
    """Whether an address leads to something of this machine: a path or a socket. Raises SourceUrlError."""
    return _split(url).scheme in ("file", "nbd+unix")


def path_of(url: str) -> str:
    """The path that a local address names; empty for any other. Raises SourceUrlError."""
    parts = _split(url)
    return parts.path if parts.scheme == "file" else ""


def check_url(url: str) -> None:
    """Raise SourceUrlError unless the address is of a kind that is read from, without credentials."""
    _split(url)


def _split(url: str) -> SplitResult:
    """The parts of an address; a path is one with the scheme file. Only what has "://" in it is taken for a URL."""
    if "://" not in url:
        return SplitResult("file", "", url, "", "")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise SourceUrlError(url.partition("://")[0] + "://…", "a URL", "another text") from None
    if "@" in parts.netloc or _SIGNED & {name.lower() for name, _ in parse_qsl(parts.query)}:
        # The request is kept with the image, and by Prefect as a parameter.
        remedy = "they would be stored; give s3:// with boto3's usual credentials, or download the file first"
        raise SourceUrlError(f"{parts.scheme}://…", "no credentials", "a password, signature or token", remedy)
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise SourceUrlError(url, "file:///path", f"a file of the host {parts.netloc}")
        return parts._replace(path=unquote(parts.path))
    if parts.scheme not in ("s3", "http", "https", "nbd", "nbds", "nbd+unix"):
        raise SourceUrlError(parts._replace(query="", fragment="").geturl(), "", f"{parts.scheme}://")
    return parts


def hint_of(name: str) -> str:
    """The format that a file's name declares, or an empty string."""
    return _SUFFIXES.get(name.rpartition(".")[2].lower(), "")


def digest_of(source: Source, algorithm: str, progress: Progress) -> str:
    """The digest of the published file (compressed or an OVA, if it is one), in hexadecimal digits."""
    reader = source.published or source.reader
    hasher = _HASHERS[algorithm]()
    for offset in range(0, reader.size, _PIECE):
        length = min(_PIECE, reader.size - offset)
        hasher.update(reader.read(offset, length))
        progress(offset + length, reader.size)
    digest: str = hasher.hexdigest()
    return digest


def verify_digest(source: Source, declared: str, progress: Progress) -> None:
    """Compare the published file with ALGORITHM:HEX; raises DigestMismatchError, DigestFormatError."""
    check_digest(declared)
    algorithm, _, expected = declared.partition(":")
    found = digest_of(source, algorithm, progress)
    if found != expected.lower():
        raise DigestMismatchError(source.name, declared.lower(), f"{algorithm}:{found}")


def check_digest(declared: str) -> None:
    """Raise DigestFormatError unless a declared digest, if there is one, can be compared."""
    algorithm, _, digits = declared.partition(":")
    if not declared:
        return
    if algorithm not in _HASHERS:
        raise DigestFormatError(declared, "ALGORITHM:HEX", f"algorithm {algorithm!r}")
    wanted = _HASHERS[algorithm]().digest_size * 2
    if len(digits) != wanted or not set(digits.lower()) <= set("0123456789abcdef"):
        raise DigestFormatError(declared, f"{wanted} hexadecimal digits", f"{len(digits)} characters")


__all__ = ["Source", "SourceChangedError", "open_address", "open_source", "verify_digest"]
