"""A Reader over an NBD export, by libnbd through ctypes: its calls release the interpreter lock."""

import ctypes
import queue
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from darkroom.errors import UnavailableError
from darkroom.model import Extent, MiB

_CONTEXT = b"base:allocation"
_ZERO = 2
_MAX_REQUEST = 32 * MiB
_MAX_STATUS = 1 << 31
_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_char_p,
    ctypes.c_uint64,
    ctypes.POINTER(ctypes.c_uint32),
    ctypes.c_size_t,
    ctypes.POINTER(ctypes.c_int),
)


class NbdUnavailableError(UnavailableError):
    """An NBD server does not answer, or an answer of it is an error."""

    code = "nbd-unavailable"
    what = "the NBD server does not answer as it should"


class _ExtentCallback(ctypes.Structure):
    _fields_ = (("callback", _Callback), ("user_data", ctypes.c_void_p), ("free", ctypes.c_void_p))


@cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libnbd.so.0")
    except OSError as error:
        raise NbdUnavailableError("libnbd.so.0", "the package libnbd0", str(error), "run `make setup`") from None
    handle = ctypes.c_void_p
    library.nbd_create.restype = handle
    library.nbd_close.argtypes = (handle,)
    library.nbd_close.restype = None
    library.nbd_get_error.restype = ctypes.c_char_p
    library.nbd_add_meta_context.argtypes = (handle, ctypes.c_char_p)
    library.nbd_connect_uri.argtypes = (handle, ctypes.c_char_p)
    library.nbd_get_size.argtypes = (handle,)
    library.nbd_get_size.restype = ctypes.c_int64
    library.nbd_can_multi_conn.argtypes = (handle,)
    library.nbd_can_meta_context.argtypes = (handle, ctypes.c_char_p)
    library.nbd_pread.argtypes = (handle, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint64, ctypes.c_uint32)
    library.nbd_block_status.argtypes = (handle, ctypes.c_uint64, ctypes.c_uint64, _ExtentCallback, ctypes.c_uint32)
    return library


_new_bytes = ctypes.pythonapi.PyBytes_FromStringAndSize
_new_bytes.argtypes = (ctypes.c_char_p, ctypes.c_ssize_t)
_new_bytes.restype = ctypes.py_object


class NbdReader:
    """The bytes of an export, read over a few connections; safe to use from many threads."""

    def __init__(self, uri: str, connections: int) -> None:
        self._shown = _without_password(uri)
        self._handles: queue.Queue[Any] = queue.Queue()
        self._count = 0
        first = self._connect(uri)
        try:
            lib = _library()
            self.size = int(lib.nbd_get_size(first))
            self._has_extents = lib.nbd_can_meta_context(first, _CONTEXT) == 1
            self._handles.put(first)
            for _ in range(connections - 1 if lib.nbd_can_multi_conn(first) == 1 else 0):
                self._handles.put(self._connect(uri))
        except BaseException:
            self.close()
            raise

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes; raises NbdUnavailableError."""
        if length > _MAX_REQUEST:
            return b"".join(
                self.read(at, min(_MAX_REQUEST, offset + length - at))
                for at in range(offset, offset + length, _MAX_REQUEST)
            )
        # A new bytes object that nobody else has seen may be filled in place; this saves a copy of every byte.
        data: bytes = _new_bytes(None, length)
        with self._handle() as handle:
            if length and _library().nbd_pread(handle, data, length, offset, 0) < 0:
                raise self._error()
        return data

    def extents(self, offset: int, length: int) -> list[Extent]:
        """Extents by the context base:allocation; an export without it is all data."""
        if not self._has_extents:
            return [Extent(offset, length, zero=False)] if length else []
        result: list[Extent] = []
        at, end = offset, offset + length
        while at < end:
            for size, flags in self._status(at, min(end - at, _MAX_STATUS)):
                size = min(size, end - at)
                zero = bool(flags & _ZERO)
                if result and result[-1].zero == zero:
                    result[-1] = Extent(result[-1].start, result[-1].length + size, zero)
                elif size:
                    result.append(Extent(at, size, zero))
                at += size
        return result

    def close(self) -> None:
        """Disconnect; waits for reads in progress."""
        for _ in range(self._count):
            _library().nbd_close(self._handles.get())
        self._count = 0

    def _connect(self, uri: str) -> Any:
        lib = _library()
        handle = lib.nbd_create()
        lib.nbd_add_meta_context(handle, _CONTEXT)
        if lib.nbd_connect_uri(handle, uri.encode()) < 0:
            error = self._error()
            lib.nbd_close(handle)
            raise error
        self._count += 1
        return handle

    @contextmanager
    def _handle(self) -> Iterator[Any]:
        handle = self._handles.get()
        try:
            yield handle
        finally:
            self._handles.put(handle)

    def _status(self, offset: int, length: int) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []

        def collect(_: Any, context: bytes, __: int, entries: Any, count: int, ___: Any) -> int:
            if context == _CONTEXT:
                found.extend((entries[i], entries[i + 1]) for i in range(0, count, 2))
            return 0

        callback = _ExtentCallback(_Callback(collect), None, None)
        with self._handle() as handle:
            if _library().nbd_block_status(handle, length, offset, callback, 0) < 0:
                raise self._error()
        if not any(size for size, _ in found):
            raise NbdUnavailableError(self._shown, "extents", "none")
        return found

    def _error(self) -> NbdUnavailableError:
        message = (_library().nbd_get_error() or b"unknown error").decode(errors="replace")
        return NbdUnavailableError(self._shown, "", message)


def connect(uri: str, connections: int = 4) -> NbdReader:
    """Connect to nbd://host[:port]/export or nbd+unix:///export?socket=path; raises NbdUnavailableError.

    More than one connection is made only where the server says that all see the same bytes.
    """
    return NbdReader(uri, connections)


def _without_password(uri: str) -> str:
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
