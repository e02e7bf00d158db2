"""Key managers: they hold key-encryption keys (KEKs), which never leave them, and wrap other keys.

A wrap is bound to its encryption context (project, purpose, image or scope): under another one it does not unwrap.
The local manager derives a wrapping key per context by HKDF-SHA256 (RFC 5869) and wraps by AES-256 key wrap
(RFC 3394), which has no additional data of its own.
"""

import base64
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from cryptography.hazmat.primitives import keywrap
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from darkroom import crypto
from darkroom.errors import (
    ConflictError,
    DarkroomError,
    MissingError,
    RefusedError,
    UnavailableError,
)

Context = Mapping[str, str]


class KeyMissingError(MissingError):
    """The key manager has no such key."""

    code = "key-not-found"
    what = "the key manager has no such key"
    default_remedy = "list the keys with `darkroom key list`, or create one with `darkroom key create NAME`"


class KeyExistsError(ConflictError):
    """A key of that name exists already."""

    code = "key-exists"
    what = "a key of that name exists already"


class KeyFileError(UnavailableError):
    """The key file cannot be used; nothing is retried."""

    code = "key-file"
    what = "the key file cannot be used"
    retryable = False


class UnwrapError(RefusedError):
    """A wrapped key does not unwrap: another key wrapped it, or for something else."""

    code = "unwrap-failed"
    what = "a wrapped key does not unwrap under this key and context"
    default_remedy = "check that the key file is the one that the image was imported with"


class KeyManager(Protocol):
    """Wraps and unwraps keys of 32 bytes under a KEK that it names."""

    url: str

    def create(self, name: str) -> None:
        """Make a KEK; raises KeyExistsError."""

    def names(self) -> list[str]:
        """The KEKs that there are, sorted."""

    def generate(self, name: str, context: Context) -> tuple[bytes, bytes]:
        """Return a new random key and its wrap."""

    def wrap(self, name: str, key: bytes, context: Context) -> bytes:
        """Wrap `key`; raises KeyMissingError."""

    def unwrap(self, name: str, wrapped: bytes, context: Context) -> bytes:
        """Undo `wrap`; raises KeyMissingError or UnwrapError."""

    def check(self) -> None:
        """Raise the error that a use would meet."""


class LocalKeys:
    """A key file, readable by its owner only: {"version": 1, "keys": {name: base64 of 32 bytes}}."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = str(path)

    def create(self, name: str) -> None:
        """Add a random KEK; the new file replaces the old one at once."""
        with self._locked():
            keys = self._load()
            if name in keys:
                raise KeyExistsError(name)
            keys[name] = crypto.random_key()
            self._save(keys)

    def names(self) -> list[str]:
        """The KEKs in the file, sorted."""
        return sorted(self._load())

    def generate(self, name: str, context: Context) -> tuple[bytes, bytes]:
        """Return a new random key and its wrap."""
        key = crypto.random_key()
        return key, self.wrap(name, key, context)

    def wrap(self, name: str, key: bytes, context: Context) -> bytes:
        """Wrap `key` by AES-256 key wrap (RFC 3394)."""
        return keywrap.aes_key_wrap(self._wrapping_key(name, context), key)

    def unwrap(self, name: str, wrapped: bytes, context: Context) -> bytes:
        """Undo `wrap`."""
        try:
            return keywrap.aes_key_unwrap(self._wrapping_key(name, context), wrapped)
        except keywrap.InvalidUnwrap:
            raise UnwrapError(name) from None

    def check(self) -> None:
        """Read the file, if there is one yet."""
        self._load()

    def _wrapping_key(self, name: str, context: Context) -> bytes:
        keys = self._load()
        if name not in keys:
            raise KeyMissingError(name)
        info = b"darkroom key wrap v1" + json.dumps(dict(context), sort_keys=True).encode()
        return HKDF(SHA256(), crypto.KEY_SIZE, salt=None, info=info).derive(keys[name])

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(self.path.with_suffix(".lock"), "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _load(self) -> dict[str, bytes]:
        try:
            with open(self.path, "rb") as file:
                mode = os.fstat(file.fileno()).st_mode & 0o777
                if mode & 0o077:
                    raise KeyFileError(self.url, "mode 0600", f"{mode:04o}", f"chmod 600 {self.url}")
                content: dict[str, Any] = json.load(file)
            if content["version"] != 1:
                raise KeyFileError(self.url, "version 1", str(content["version"]))
            return {name: _key(value) for name, value in content["keys"].items()}
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise KeyFileError(self.url, "a readable file", error.strerror or "") from error
        except (ValueError, KeyError, TypeError, AttributeError):
            raise KeyFileError(self.url, "a key file of Darkroom", "another") from None

    def _save(self, keys: dict[str, bytes]) -> None:
        encoded = {name: base64.b64encode(key).decode() for name, key in keys.items()}
        temporary = self.path.with_suffix(".new")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(fd, "w") as file:
            json.dump({"version": 1, "keys": encoded}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self.path)


def _key(encoded: str) -> bytes:
    key = base64.b64decode(encoded, validate=True)
    if len(key) != crypto.KEY_SIZE:
        raise ValueError("a key of 32 bytes")
    return key


class KeysUrlError(DarkroomError):
    """The address of the key manager is not one that Darkroom knows."""

    code = "keys-url"
    what = "this key manager is not known"
    exit_code = 2


def open_keys(url: str) -> KeyManager:
    """Open a key manager; `url` is the path of a key file, or file://path. Raises KeysUrlError."""
    if "://" in url and not url.startswith("file://"):
        raise KeysUrlError(
            url.split("://", maxsplit=1)[0], "a path or file://", url.split("://", maxsplit=1)[0] + "://"
        )
    return LocalKeys(Path(url.removeprefix("file://")).expanduser().absolute())
