"""Key managers: they hold key-encryption keys (KEKs), which never leave them, and wrap other keys.

A key belongs to a project, and a key manager is opened for one. A wrap is bound to its key and to its encryption
context (purpose, project, image or scope): under others it does not unwrap. It begins with the version of the key that
made it (one byte of length, then the version's id), so that a rotation can tell what is still under an older one.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from darkroom.errors import ConflictError, DarkroomError, MissingError, RefusedError, UnavailableError
from darkroom.settings import Settings

Context = Mapping[str, str]


class KeyMissingError(MissingError):
    """The key manager has no such key of the project."""

    code = "key-not-found"
    what = "the key manager has no such key"
    default_remedy = "list the keys with `darkroom key list`, or create one with `darkroom key create NAME`"


class KeyExistsError(ConflictError):
    """A key of that name exists already."""

    code = "key-exists"
    what = "a key of that name exists already"


class KeyDisabledError(RefusedError):
    """The key is there, and may not be used: it was disabled, or its deletion is scheduled."""

    code = "key-disabled"
    what = "the key may not be used now"

    def __init__(self, which: str, expected: str = "", found: str = "", remedy: str = "") -> None:
        super().__init__(which, expected, found, remedy or f"enable it with `darkroom key enable {shlex.quote(which)}`")


class KeyForbiddenError(RefusedError):
    """The key manager knows us, or does not, and forbids us the use of the key."""

    code = "key-forbidden"
    what = "the key manager does not allow this use of the key"
    default_remedy = "ask who manages the key for the right, or check the credentials"


class UnwrapError(RefusedError):
    """A wrapped key does not unwrap: another key wrapped it, or for something else."""

    code = "unwrap-failed"
    what = "a wrapped key does not unwrap under this key and context"
    default_remedy = "check that the key manager is the one that the image was imported with"


class KeyNameError(RefusedError):
    """The key manager cannot hold a key of this name."""

    code = "key-name"
    what = "the key manager cannot hold a key of this name"
    default_remedy = "choose a shorter name"


class KeysUnavailableError(UnavailableError):
    """The key manager does not answer."""

    code = "keys-unavailable"
    what = "the key manager does not answer"


class KeysThrottledError(UnavailableError):
    """The key manager answers, and asks for patience."""

    code = "keys-throttled"
    what = "the key manager gets more requests than it allows"


class KeysRefusedError(UnavailableError):
    """The key manager answers, and not as one does; nothing is retried."""

    code = "keys-refused"
    what = "the key manager refuses the request"
    retryable = False


class KeysUrlError(DarkroomError):
    """The address of the key manager is not one that Darkroom knows."""

    code = "keys-url"
    what = "this key manager is not known"
    exit_code = 2


@dataclass(frozen=True, slots=True)
class Key:
    """A KEK: its state (`enabled`, `disabled`, `pending-deletion`, `unavailable`) and the id of its current version.

    `rotating` while there is an older version beside it, which a rotation has not yet ended. `created_at` is that of
    the current version.
    """

    name: str
    state: str
    version: str
    rotating: bool
    created_at: datetime


class KeyManager(Protocol):
    """The keys of one project. Whatever uses a key raises KeyMissingError, KeyDisabledError or KeyForbiddenError."""

    url: str
    endpoint_url: str
    """The server that they are on, where that does not go without saying; else empty."""
    project: str

    def create(self, name: str) -> None:
        """Make a KEK; raises KeyExistsError."""

    def listed(self) -> list[Key]:
        """The KEKs of the project, sorted by name."""

    def names(self) -> list[str]:
        """Their names alone, which costs little."""

    def find(self, name: str) -> Key:
        """One of them, in whatever state; raises KeyMissingError."""

    def set_enabled(self, name: str, enabled: bool) -> None:
        """Allow or forbid every use of a KEK; nothing changes if it is so already."""

    def generate(self, name: str, context: Context) -> tuple[bytes, bytes]:
        """Return a new random key of 32 bytes and its wrap."""

    def wrap(self, name: str, key: bytes, context: Context) -> bytes:
        """Wrap a key of 32 bytes under the current version of the KEK."""

    def unwrap(self, name: str, wrapped: bytes, context: Context) -> bytes:
        """Undo `wrap`; raises UnwrapError."""

    def rewrap(self, name: str, wrapped: bytes, context: Context, new_name: str) -> bytes:
        """What `unwrap` under one KEK and `wrap` under another, or the current version of the same, would give."""

    def begin_rotation(self, name: str) -> Key:
        """Make a new version the current one; goes on with a rotation that has not ended.

        The versions before it unwrap what they wrapped until `end_rotation`.
        """

    def end_rotation(self, name: str) -> None:
        """Destroy the versions that are not current, or schedule it; they unwrap nothing any more."""

    def check(self) -> None:
        """Raise the error that a use would meet."""


def versioned(version: str, payload: bytes) -> bytes:
    """A wrap: the id of the version that made it, and what the key manager made."""
    return bytes((len(version),)) + version.encode() + payload


def split(name: str, wrapped: bytes) -> tuple[str, bytes]:
    """Undo `versioned`; raises UnwrapError for what is no wrap."""
    length = wrapped[0] if wrapped else 0
    version, payload = wrapped[1 : 1 + length], wrapped[1 + length :]
    if not length or not payload or not version.isascii():
        raise UnwrapError(name, "a wrapped key", "other bytes")
    return version.decode(), payload


def require_usable(manager: KeyManager, name: str) -> None:
    """Wrap and unwrap a key of no use: whatever a use of the KEK would raise, this raises at once."""
    context = {"purpose": "check", "project": manager.project}
    key, wrapped = manager.generate(name, context)
    if manager.unwrap(name, wrapped, context) != key:
        raise UnwrapError(name)


def open_keys(url: str, settings: Settings, credentials: tuple[str, str] | None = None) -> KeyManager:
    """Open a key manager for the settings' project: a key file (a path, or file://path), or aws-kms://[region].

    `credentials` are an access key id and its secret; None leaves them to the usual ways of boto3. Raises KeysUrlError.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme == "file":
        from darkroom.keys.local import LocalKeys  # noqa: PLC0415

        return LocalKeys(Path(rest if separator else url).expanduser().absolute(), settings.project)
    if scheme != "aws-kms":
        raise KeysUrlError(f"{scheme}://…", "a path, file:// or aws-kms://", f"{scheme}://")
    from darkroom.keys.kms import KmsKeys  # noqa: PLC0415 - boto3 takes 0.2 s to import

    return KmsKeys(rest, settings.kms_endpoint_url, settings.project, credentials)
