"""Raw bytes in a local file or block device, as a Reader; and a Reader written to a sparse raw file."""

import errno
import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from darkroom.errors import RefusedError
from darkroom.model import CHUNK_SIZE, Extent, GiB, MiB, Reader

_PIECE = 4 * MiB
_ZEROS = memoryview(bytes(_PIECE))
_WINDOW = 1 * GiB
_THREADS = 4


class SourceChangedError(RefusedError):
    """The source is not what it was when the operation began: it was replaced, written to, or cut short."""

    code = "source-changed"
    what = "the source changed while it was read"
    default_remedy = "make sure that nothing writes to it, then import it again"


class SourceReadError(RefusedError):
    """The file system or device cannot give the bytes, such as a bad sector."""

    code = "source-read"
    what = "the source cannot be read"
    default_remedy = "check the disk that it lies on, and copy the file from its origin again"


class RawDisk:
    """`size` bytes at `offset` of an open file, by pread; the descriptor stays the caller's."""

    def __init__(self, fd: int, which: str, offset: int = 0, size: int | None = None) -> None:
        self._fd, self._which, self._offset = fd, which, offset
        self.size = os.lseek(fd, 0, os.SEEK_END) - offset if size is None else size

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes; raises SourceChangedError if the file has become shorter."""
        try:
            data = os.pread(self._fd, length, self._offset + offset)
            return data if len(data) == length else self._rest(data, offset, length)
        except OSError as error:
            raise SourceReadError(f"{self._which} at {offset}", "", error.strerror or str(error)) from error

    def extents(self, offset: int, length: int) -> list[Extent]:
        """Holes of the file system (SEEK_DATA, SEEK_HOLE) as zero extents."""
        result: list[Extent] = []
        at, end = offset, offset + length
        while at < end:
            data = min(self._seek(at, os.SEEK_DATA), end)
            if data > at:
                result.append(Extent(at, data - at, zero=True))
            if data < end:
                hole = min(self._seek(data, os.SEEK_HOLE), end)
                result.append(Extent(data, hole - data, zero=False))
                data = hole
            at = data
        return result

    def close(self) -> None:
        """Nothing to release."""

    def _rest(self, data: bytes, offset: int, length: int) -> bytes:
        while len(data) < length:
            more = os.pread(self._fd, length - len(data), self._offset + offset + len(data))
            if not more:
                raise SourceChangedError(self._which, f"{length} bytes at {offset}", f"{len(data)}")
            data += more
        return data

    def _seek(self, offset: int, whence: int) -> int:
        try:
            return max(os.lseek(self._fd, self._offset + offset, whence) - self._offset, offset)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no more data: the rest is a hole, or is no longer there
                found = os.lseek(self._fd, 0, os.SEEK_END) - self._offset
                if found < self.size:
                    raise SourceChangedError(self._which, f"{self.size} bytes", f"{found}") from None
                return self.size
            if whence == os.SEEK_DATA:  # a file system or device that cannot tell
                return offset
            return self.size


def write_raw(reader: Reader, path: Path, progress: Callable[[int, int], None]) -> None:
    """Write all of `reader` to a new sparse file, zeros as holes; a few threads read, and one writes.

    Writers of one file wait for each other in the kernel, and spin while they do.
    Raises what the reader raises, and OSError; the file is left as it is then.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        os.ftruncate(fd, reader.size)
        pending: deque[tuple[int, Future[list[bytes]]]] = deque()
        with ThreadPoolExecutor(_THREADS, "read") as pool:
            for start, length in _data(reader):
                pending.append((start, pool.submit(_read_piece, reader, start, length)))
                if len(pending) == 2 * _THREADS:
                    start, piece = pending.popleft()
                    progress(_write(fd, start, piece.result()), reader.size)
            for start, piece in pending:
                progress(_write(fd, start, piece.result()), reader.size)
        progress(reader.size, reader.size)
    finally:
        os.close(fd)


def _data(reader: Reader) -> Iterator[tuple[int, int]]:
    """The starts and lengths of all that may not be zero, in pieces."""
    for window in range(0, reader.size, _WINDOW):
        for extent in reader.extents(window, min(_WINDOW, reader.size - window)):
            for start in range(extent.start, 0 if extent.zero else extent.end, _PIECE):
                yield start, min(_PIECE, extent.end - start)


def _read_piece(reader: Reader, offset: int, length: int) -> list[bytes]:
    """A piece, a chunk at a time, as the bytes lie in memory: a longer read would have to join them."""
    end = offset + length
    return [reader.read(start, min(CHUNK_SIZE, end - start)) for start in range(offset, end, CHUNK_SIZE)]


def _write(fd: int, offset: int, chunks: list[bytes]) -> int:
    """Write chunks one behind the other; where they end."""
    views = [memoryview(chunk) for chunk in chunks]
    while views:
        written = os.pwritev(fd, views, offset)
        offset += written
        while views and written >= len(views[0]):
            written -= len(views.pop(0))
        if written:
            views[0] = views[0][written:]
    return offset


def sha256(path: Path) -> str:
    """The digest of a file, whose holes are not read: a page of zeros costs more to read than to digest."""
    digest = hashlib.sha256()
    with open(path, "rb") as opened:
        file = RawDisk(opened.fileno(), path.name)
        for extent in file.extents(0, file.size):
            for start in range(extent.start, extent.end, _PIECE):
                length = min(_PIECE, extent.end - start)
                digest.update(_ZEROS[:length] if extent.zero else file.read(start, length))
    return digest.hexdigest()
