"""The local key manager: a file, readable by its owner only.

    {"version": 2, "projects": {project: {name:
        {"enabled": bool, "created_at": time, "current": version, "versions": {version: base64 of 32 bytes}}}}}

It derives a wrapping key per context by HKDF-SHA256 (RFC 5869) and wraps by AES-256 key wrap (RFC 3394), which has no
additional data of its own.
"""

import base64
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import keywrap
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from darkroom import crypto, keys
from darkroom.errors import UnavailableError
from darkroom.keys import Context, Key, KeyDisabledError, KeyExistsError, KeyMissingError, UnwrapError

_VERSION = 2


class KeyFileError(UnavailableError):
    """The key file cannot be used; nothing is retried."""

    code = "key-file"
    what = "the key file cannot be used"
    retryable = False


class LocalKeys:
    """The keys of one project in a key file, which other projects may share."""

    def __init__(self, path: Path, project: str) -> None:
        self.path = path
        self.url = str(path)
        self.endpoint_url = ""
        self.project = project

    def create(self, name: str) -> None:
        """Add a random KEK; the new file replaces the old one at once."""
        with self._changed() as ours:
            if name in ours:
                raise KeyExistsError(name)
            ours[name] = {"enabled": True, "created_at": _now(), "current": "1", "versions": {"1": _random()}}

    def listed(self) -> list[Key]:
        """The KEKs of the project, sorted by name."""
        ours = self._load().get(self.project, {})
        return [_key(name, ours[name]) for name in sorted(ours)]

    def names(self) -> list[str]:
        """The names in the file."""
        return sorted(self._load().get(self.project, {}))

    def find(self, name: str) -> Key:
        """One of them; raises KeyMissingError."""
        return _key(name, _entry(self._load().get(self.project, {}), name))

    def set_enabled(self, name: str, enabled: bool) -> None:
        """Write it into the file, where every use looks."""
        with self._changed() as ours:
            _entry(ours, name)["enabled"] = enabled

    def generate(self, name: str, context: Context) -> tuple[bytes, bytes]:
        """Return a new random key and its wrap."""
        key = crypto.random_key()
        return key, self.wrap(name, key, context)

    def wrap(self, name: str, key: bytes, context: Context) -> bytes:
        """Wrap `key` by AES-256 key wrap (RFC 3394)."""
        version, kek = self._kek(name)
        return keys.versioned(version, keywrap.aes_key_wrap(_wrapping_key(kek, context), key))

    def unwrap(self, name: str, wrapped: bytes, context: Context) -> bytes:
        """Undo `wrap`."""
        version, payload = keys.split(name, wrapped)
        try:
            return keywrap.aes_key_unwrap(_wrapping_key(self._kek(name, version)[1], context), payload)
        except keywrap.InvalidUnwrap:
            raise UnwrapError(name) from None

    def rewrap(self, name: str, wrapped: bytes, context: Context, new_name: str) -> bytes:
        """Unwrap and wrap."""
        return self.wrap(new_name, self.unwrap(name, wrapped, context), context)

    def begin_rotation(self, name: str) -> Key:
        """Add a random version to the file; the number of versions tells that a rotation is under way."""
        self._kek(name)
        with self._changed() as ours:
            entry = _entry(ours, name)
            if len(entry["versions"]) == 1:
                entry["current"] = str(int(entry["current"]) + 1)
                entry["versions"][entry["current"]] = _random()
                entry["created_at"] = _now()
            return _key(name, entry)

    def end_rotation(self, name: str) -> None:
        """Take all versions but the current one out of the file."""
        with self._changed() as ours:
            entry = _entry(ours, name)
            entry["versions"] = {entry["current"]: entry["versions"][entry["current"]]}

    def check(self) -> None:
        """Read the file, if there is one yet."""
        self._load()

    def _kek(self, name: str, version: str = "") -> tuple[str, bytes]:
        """A version of a KEK that may be used, by default the current one."""
        entry = _entry(self._load().get(self.project, {}), name)
        if not entry["enabled"]:
            raise KeyDisabledError(name, "an enabled key", "a disabled one")
        version = version or entry["current"]
        if version not in entry["versions"]:
            raise UnwrapError(name, "a version that there is", f"version {version}")
        return version, base64.b64decode(entry["versions"][version])

    @contextmanager
    def _changed(self) -> Iterator[dict[str, Any]]:
        """The project's entries, to be changed in the block; written at its end unless it raises."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with open(self.path.with_suffix(".lock"), "a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                projects = self._load()
                yield projects.setdefault(self.project, {})
                self._save(projects)
        except OSError as error:
            remedy = "change keys where its folder may be written"
            raise KeyFileError(self.url, "a file that can be replaced", error.strerror or "", remedy) from error

    def _load(self) -> dict[str, Any]:
        try:
            with open(self.path, "rb") as file:
                mode = os.fstat(file.fileno()).st_mode & 0o777
                if mode & 0o077:
                    raise KeyFileError(self.url, "mode 0600", f"{mode:04o}", f"chmod 600 {self.url}")
                content: dict[str, Any] = json.load(file)
            if content["version"] != _VERSION:
                raise KeyFileError(self.url, f"version {_VERSION}", str(content["version"]))
            projects: dict[str, Any] = content["projects"]
            for entries in projects.values():
                for entry in entries.values():
                    _check(entry)
            return projects
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise KeyFileError(self.url, "a readable file", error.strerror or "") from error
        except (ValueError, KeyError, TypeError, AttributeError):
            raise KeyFileError(self.url, "a key file of Darkroom", "another") from None

    def _save(self, projects: dict[str, Any]) -> None:
        temporary = self.path.with_suffix(".new")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(fd, "w") as file:
            json.dump({"version": _VERSION, "projects": projects}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self.path)
        folder = os.open(self.path.parent, os.O_DIRECTORY)  # a key that is used must not be lost with the power
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _wrapping_key(kek: bytes, context: Context) -> bytes:
    info = b"darkroom key wrap v1" + json.dumps(dict(context), sort_keys=True).encode()
    return HKDF(SHA256(), crypto.KEY_SIZE, salt=None, info=info).derive(kek)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _random() -> str:
    return base64.b64encode(crypto.random_key()).decode()


def _entry(ours: dict[str, Any], name: str) -> dict[str, Any]:
    if name not in ours:
        raise KeyMissingError(name)
    entry: dict[str, Any] = ours[name]
    return entry


def _check(entry: dict[str, Any]) -> None:
    """Raise ValueError or KeyError unless it is an entry as `create` makes them."""
    for kek in entry["versions"].values():
        if len(base64.b64decode(kek, validate=True)) != crypto.KEY_SIZE:
            raise ValueError("a key of 32 bytes")
    entry["versions"][entry["current"]]
    _key("", entry)


def _key(name: str, entry: dict[str, Any]) -> Key:
    state = "enabled" if entry["enabled"] else "disabled"
    created_at = datetime.fromisoformat(entry["created_at"])
    return Key(name, state, entry["current"], len(entry["versions"]) > 1, created_at)
