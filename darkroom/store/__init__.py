"""The object store: objects under keys, whole or not there.

Two implementations of one small interface: a directory and S3. Nothing here relies on conditional requests: the
catalog is the lock.
"""

import re
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from darkroom.errors import DamagedError, DarkroomError, UnavailableError
from darkroom.model import Buffer
from darkroom.settings import Settings

_NAME = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}"
_KEY = re.compile(rf"{_NAME}(/{_NAME})*")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")


class ObjectMissingError(DamagedError):
    """An object that must be there is not."""

    code = "object-missing"
    what = "an object is missing from the store"
    default_remedy = "restore it from a copy, or import the images that need it again"


class ObjectTruncatedError(DamagedError):
    """An object is shorter than what was written."""

    code = "object-truncated"
    what = "an object in the store is cut short"
    default_remedy = "restore it from a copy, or import the images that need it again"


class StoreUnavailableError(UnavailableError):
    """The store does not answer."""

    code = "store-unavailable"
    what = "the object store does not answer"


class StoreRefusedError(UnavailableError):
    """The store answers, but not to us; trying again does not help."""

    code = "store-refused"
    what = "the object store refuses the request"
    default_remedy = "check DARKROOM_STORE_URL, the credentials, and the rights on the folder or bucket"
    retryable = False


class StoreFullError(UnavailableError):
    """There is no room left; what was stored stays, and the same command goes on behind it."""

    code = "store-full"
    what = "the object store is full"
    default_remedy = "make room, then run the same command again: it goes on where it stopped"
    retryable = False


class StoreUrlError(DarkroomError):
    """The address of the store is not one that Darkroom knows."""

    code = "store-url"
    what = "this is not the address of an object store"
    default_remedy = "give s3://bucket/prefix or a directory"
    exit_code = 2


class Store(Protocol):
    """Puts and gets whole objects; safe to use from many threads. Raises the errors of this module."""

    url: str
    """Where it is, without credentials."""
    endpoint_url: str
    """The server that it is on, where that does not go without saying; else empty."""

    def put(self, key: str, parts: Iterable[Buffer], size: int) -> None:
        """Write an object of exactly `size` bytes, durably; it appears whole or not at all, replacing any other.

        Raises ValueError if the parts have another size; an error that `parts` raises comes out as it is.
        """

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """Return exactly that range, to the end if `length` is None.

        Raises ObjectMissingError, ObjectTruncatedError. A transfer that breaks off is repeated, never returned.
        """

    def size(self, key: str) -> int:
        """The size of an object in bytes; raises ObjectMissingError."""

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield key and size of every object whose key begins with `prefix`, in no certain order.

        Servers that speak S3 differ in the order, and names that are not keys are not ours: they are left out.
        """

    def sweep(self, older_than: float) -> int:
        """Remove what puts that were killed more than so many seconds ago left unseen; return how many."""

    def check(self) -> None:
        """Write, read and remove a small object; raises the error that a use would meet."""


def is_key(name: str) -> bool:
    """Whether it is `/`-separated names that no file system or URL reads otherwise."""
    return len(name) <= 512 and _KEY.fullmatch(name) is not None


def check_key(key: str) -> str:
    """Return the key; raises ValueError unless it is one."""
    if not is_key(key):
        raise ValueError(f"not an object key: {key!r}")
    return key


def folder_of(prefix: str) -> list[str]:
    """The names that lead to the objects of a prefix; raises ValueError unless they are names."""
    head, separator, _ = prefix.rpartition("/")
    return check_key(head).split("/") if separator else []


def probe(store: Store) -> None:
    """What `check` does."""
    key, body = f"check-{secrets.token_hex(8)}", secrets.token_bytes(16)
    store.put(key, [body], len(body))
    try:
        if (found := store.get(key)) != body:
            raise StoreUnavailableError(store.url, "the bytes that were put", f"{len(found)} others")
    finally:
        store.delete(key)


def open_store(url: str, settings: Settings, credentials: tuple[str, str] | None = None) -> Store:
    """Open s3://bucket/prefix or a directory (a path or file://path); raises StoreUrlError.

    `credentials` are an access key id and its secret; None leaves them to the usual ways of boto3.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme == "file":
        from darkroom.store.directory import DirectoryStore  # noqa: PLC0415

        return DirectoryStore(Path(rest if separator else url).expanduser().absolute())
    bucket, _, prefix = rest.partition("/")
    prefix = prefix.strip("/")
    # What is not a name may be a credential in the wrong place: it is not repeated in the error.
    if scheme != "s3" or not _BUCKET.fullmatch(bucket) or not (prefix == "" or is_key(prefix)):
        raise StoreUrlError(f"{scheme}://…")
    from darkroom.store.s3 import S3Store  # noqa: PLC0415 - boto3 takes 0.2 s to import

    return S3Store(bucket, prefix, settings.s3_endpoint_url, credentials)
