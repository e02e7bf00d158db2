"""The object store in a directory: an object is a file, written under a temporary name and renamed.

Every path is walked name by name from the store's folder, so that no symbolic link in it leads anywhere else.
"""

import errno
import os
import secrets
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from darkroom import store
from darkroom.errors import UnavailableError
from darkroom.model import Buffer
from darkroom.store import (
    ObjectMissingError,
    ObjectTruncatedError,
    StoreFullError,
    StoreRefusedError,
    StoreUnavailableError,
)

_TEMPORARY = ".tmp"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_ABSENT = (FileNotFoundError, NotADirectoryError)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP, errno.ENOTDIR, errno.EISDIR)


class DirectoryStore:
    """Objects below a folder. Temporary files live in one folder beside them, so that listings never meet one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)
        self.endpoint_url = ""

    def put(self, key: str, parts: Iterable[Buffer], size: int) -> None:
        """Write, sync, rename, sync the folder: after a power cut the object is whole or not there."""
        *folders, name = store.check_key(key).split("/")
        temporary = secrets.token_hex(16)
        with self._made([_TEMPORARY]) as spare, self._made(folders) as folder:
            with self._errors():
                fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=spare)
            try:
                self._write(fd, parts, size)
                with self._errors():
                    os.fdatasync(fd)
                    os.rename(temporary, name, src_dir_fd=spare, dst_dir_fd=folder)
                    os.fsync(folder)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=spare)
                raise
            finally:
                os.close(fd)

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """Read a range by pread."""
        with self._opened(key) as (fd, size):
            wanted = max(size - offset, 0) if length is None else length
            data = os.pread(fd, wanted, offset)
            while 0 < len(data) < wanted and (more := os.pread(fd, wanted - len(data), offset + len(data))):
                data += more
        if len(data) != wanted:
            raise ObjectTruncatedError(f"{self.url}/{key}", f"{wanted} bytes at {offset}", f"{size} in all")
        return data

    def size(self, key: str) -> int:
        """The file's size."""
        with self._opened(key) as (_, size):
            return size

    def delete(self, key: str) -> None:
        """Remove the file; its folder stays."""
        *folders, name = store.check_key(key).split("/")
        with self._errors(), suppress(*_ABSENT), self._entered(folders) as folder:
            # A folder of other objects is not an object of that key.
            if not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=folder)
                os.fsync(folder)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Walk the folders that the prefix leads to."""
        names = store.folder_of(prefix)
        with self._errors(), suppress(*_ABSENT), self._entered(names) as folder:
            yield from self._walk(folder, "".join(f"{name}/" for name in names), prefix)

    def check(self) -> None:
        """Write, read and remove a small object."""
        store.probe(self)

    def sweep(self, older_than: float) -> int:
        """Remove the temporary files of killed puts."""
        removed = 0
        with self._errors(), suppress(*_ABSENT), self._entered([_TEMPORARY]) as folder:
            for name in os.listdir(folder):
                with suppress(FileNotFoundError):
                    if time.time() - os.stat(name, dir_fd=folder).st_mtime > older_than:
                        os.unlink(name, dir_fd=folder)
                        removed += 1
        return removed

    def _write(self, fd: int, parts: Iterable[Buffer], size: int) -> None:
        written = 0
        for part in parts:
            view = memoryview(part).cast("B")
            written += len(view)
            if written > size:
                break
            with self._errors():
                while view:
                    view = view[os.write(fd, view) :]
        if written != size:
            raise ValueError(f"at least {written} bytes were given for an object of {size}")

    def _walk(self, folder: int, at: str, prefix: str) -> Iterator[tuple[str, int]]:
        with os.scandir(folder) as entries:
            for entry in entries:
                key = at + entry.name
                if not (store.is_key(key) and key.startswith(prefix)):
                    continue
                with suppress(*_ABSENT):  # removed while we look
                    if entry.is_dir(follow_symlinks=False):
                        with _folder(entry.name, folder) as inner:
                            yield from self._walk(inner, f"{key}/", prefix)
                    elif entry.is_file(follow_symlinks=False):
                        yield key, entry.stat(follow_symlinks=False).st_size

    @contextmanager
    def _opened(self, key: str) -> Iterator[tuple[int, int]]:
        """Open an object to read; yield its descriptor and size."""
        *folders, name = store.check_key(key).split("/")
        with self._errors():
            try:
                with self._entered(folders) as folder:
                    # Without O_NONBLOCK, a FIFO in the place of an object would hold us for ever.
                    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
                    fd = os.open(name, flags, dir_fd=folder)
            except _ABSENT:
                if not self.root.is_dir():
                    raise StoreUnavailableError(self.url, "a folder", "none") from None
                raise ObjectMissingError(f"{self.url}/{key}") from None
            try:
                found = os.fstat(fd)
                if not stat.S_ISREG(found.st_mode):
                    raise ObjectMissingError(f"{self.url}/{key}", "a file", stat.filemode(found.st_mode))
                yield fd, found.st_size
            finally:
                os.close(fd)

    @contextmanager
    def _entered(self, names: Sequence[str]) -> Iterator[int]:
        """Open a folder below the root; raises OSError."""
        with ExitStack() as stack:
            fd = stack.enter_context(_folder(str(self.root), None))
            for name in names:
                fd = stack.enter_context(_folder(name, fd))
            yield fd

    @contextmanager
    def _made(self, names: Sequence[str]) -> Iterator[int]:
        """Open a folder below the root, making what is missing on the way, durably."""
        with ExitStack() as stack:
            with self._errors():
                _make_root(self.root)
                fd = stack.enter_context(_folder(str(self.root), None))
                for name in names:
                    try:
                        fd = stack.enter_context(_folder(name, fd))
                    except FileNotFoundError:
                        with suppress(FileExistsError):
                            os.mkdir(name, 0o700, dir_fd=fd)
                        os.fsync(fd)
                        fd = stack.enter_context(_folder(name, fd))
            yield fd

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kind: type[UnavailableError] = StoreUnavailableError
            if error.errno in _FULL:
                kind = StoreFullError
            elif error.errno in _REFUSED:
                kind = StoreRefusedError
            raise kind(self.url, "", error.strerror or str(error)) from error


@contextmanager
def _folder(name: str, parent: int | None) -> Iterator[int]:
    """Open a folder: the root by its path, one below by its name, which must not be a link."""
    try:
        fd = os.open(name, _FOLDER if parent is None else _FOLDER | os.O_NOFOLLOW, dir_fd=parent)
    except NotADirectoryError:
        if stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            raise OSError(errno.ELOOP, f"{name} is a symbolic link") from None
        raise
    try:
        yield fd
    finally:
        os.close(fd)


def _make_root(root: Path) -> None:
    for path in reversed([path for path in (root, *root.parents) if not path.exists()]):
        path.mkdir(mode=0o700, exist_ok=True)
        with _folder(str(path.parent), None) as above:
            os.fsync(above)
