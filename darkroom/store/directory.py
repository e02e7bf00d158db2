"""The object store in a directory: an object is a file, written under a temporary name and renamed."""

import errno
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from darkroom.errors import UnavailableError
from darkroom.model import Buffer
from darkroom.store import (
    ObjectMissingError,
    ObjectTruncatedError,
    StoreFullError,
    StoreRefusedError,
    StoreUnavailableError,
    check_key,
)

_TEMPORARY = ".tmp"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


class DirectoryStore:
    """Objects below a folder. Temporary files live in one folder beside them, so that listings never meet one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)

    def put(self, key: str, parts: Iterable[Buffer], size: int) -> None:
        """Write, fsync, rename, fsync the folder: after a power cut the object is whole or not there."""
        path = self._path(key)
        temporary = self.root / _TEMPORARY / secrets.token_hex(16)
        with self._errors(key):
            for folder in (temporary.parent, path.parent):
                self._make(folder)
            try:
                with open(temporary, "xb", buffering=0) as file:
                    _write(file.fileno(), parts, size)
                    os.fdatasync(file.fileno())
                temporary.rename(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            _sync(path.parent)

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """Read a range by pread."""
        with self._errors(key):
            fd = os.open(self._path(key), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                wanted = max(os.fstat(fd).st_size - offset, 0) if length is None else length
                data = os.pread(fd, wanted, offset)
                while 0 < len(data) < wanted and (more := os.pread(fd, wanted - len(data), offset + len(data))):
                    data += more
            finally:
                os.close(fd)
        if len(data) != wanted:
            raise ObjectTruncatedError(key, f"{wanted} bytes at {offset}", f"{len(data)}")
        return data

    def size(self, key: str) -> int:
        """The file's size."""
        with self._errors(key):
            return self._path(key).stat().st_size

    def delete(self, key: str) -> None:
        """Remove the file; its folder stays."""
        with self._errors(key):
            self._path(key).unlink(missing_ok=True)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Walk the folders that the prefix leads to."""
        base, _, _ = prefix.rpartition("/")
        with self._errors(prefix):
            yield from self._walk(self.root / base, f"{base}/" if base else "", prefix)

    def check(self) -> None:
        """Write, read and remove a small object."""
        key = f"check-{secrets.token_hex(8)}"
        self.put(key, [b"darkroom"], 8)
        self.get(key)
        self.delete(key)

    def sweep(self, older_than: float) -> int:
        """Remove temporary files that a killed writer left more than so many seconds ago; return how many."""
        removed = 0
        with self._errors(_TEMPORARY):
            for path in (self.root / _TEMPORARY).glob("*"):
                if time.time() - path.stat().st_mtime > older_than:
                    path.unlink(missing_ok=True)
                    removed += 1
        return removed

    def _walk(self, folder: Path, at: str, prefix: str) -> Iterator[tuple[str, int]]:
        try:
            with os.scandir(folder) as scan:
                entries = list(scan)
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            is_folder = entry.is_dir(follow_symlinks=False)
            key = at + entry.name + "/" * is_folder
            if entry.name.startswith(".") or not (key.startswith(prefix) or prefix.startswith(key)):
                continue
            if is_folder:
                yield from self._walk(folder / entry.name, key, prefix)
            elif entry.is_file(follow_symlinks=False):
                yield key, entry.stat(follow_symlinks=False).st_size

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _make(self, folder: Path) -> None:
        """Make a folder and those above it, each durably."""
        if folder.is_dir():
            return
        if folder != self.root:
            self._make(folder.parent)
        folder.mkdir(exist_ok=True, parents=folder == self.root, mode=0o700)
        _sync(folder.parent)

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except UnavailableError:
            raise
        except FileNotFoundError:
            raise ObjectMissingError(f"{self.url}/{key}") from None
        except OSError as error:
            kind = StoreUnavailableError
            if error.errno in _FULL:
                kind = StoreFullError  # type: ignore[assignment]
            elif error.errno in _REFUSED:
                kind = StoreRefusedError  # type: ignore[assignment]
            raise kind(self.url, "", error.strerror or str(error)) from error


def _write(fd: int, parts: Iterable[Buffer], size: int) -> None:
    written = 0
    for part in parts:
        view = memoryview(part).cast("B")
        while len(view):
            count = os.write(fd, view)
            written += count
            view = view[count:]
    if written != size:
        raise ValueError(f"{written} bytes were given for an object of {size}")


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
