"""A Reader over an NBD export, by libnbd through ctypes: its calls release the interpreter lock."""

import ctypes
import os
import queue
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from darkroom import model
from darkroom.errors import UnavailableError
from darkroom.model import Extent, MiB

_ALLOCATION = b"base:allocation"
_BITMAP = b"qemu:dirty-bitmap:"
_ZERO, _DIRTY = 2, 1
_MAX_REQUEST = 32 * MiB
_MAX_STATUS = 1 << 31
_STALLED = 120.0
"""Seconds after which a server that has not answered is given up; libnbd itself waits for ever."""
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
    library.nbd_aio_connect_uri.argtypes = (handle, ctypes.c_char_p)
    library.nbd_aio_is_connecting.argtypes = (handle,)
    library.nbd_aio_is_ready.argtypes = (handle,)
    library.nbd_aio_get_fd.argtypes = (handle,)
    library.nbd_poll.argtypes = (handle, ctypes.c_int)
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

    def __init__(self, uri: str, connections: int, bitmap: str = "") -> None:
        self._uri = uri
        self._context = _BITMAP + bitmap.encode() if bitmap else _ALLOCATION
        self._handles: queue.Queue[int] = queue.Queue()
        self._sockets: dict[int, socket.socket] = {}
        self._busy: dict[int, float] = {}
        self._closed = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="nbd-watch", daemon=True)
        try:
            lib = _library()
            first = self._connect()
            self.size = int(lib.nbd_get_size(first))
            self._has_extents = lib.nbd_can_meta_context(first, self._context) == 1
            for _ in range(connections - 1 if lib.nbd_can_multi_conn(first) == 1 else 0):
                self._connect()
        except BaseException:
            self.close()
            raise
        self._watcher.start()

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
        """Extents by the context base:allocation, or the bitmap; an export without it is all data."""
        if not self._has_extents:
            return model.extents(offset, [(length, False)])
        return model.extents(offset, self._pieces(offset, offset + length))

    def close(self) -> None:
        """Disconnect; waits for reads in progress."""
        while self._sockets:
            handle = self._handles.get()
            _library().nbd_close(handle)
            self._sockets.pop(handle).close()
        self._closed.set()
        if self._watcher.ident:
            self._watcher.join()

    def _connect(self) -> int:
        lib = _library()
        handle: int = lib.nbd_create()
        try:
            lib.nbd_add_meta_context(handle, self._context)
            if lib.nbd_aio_connect_uri(handle, self._uri.encode()) < 0:
                raise self._error()
            deadline = time.monotonic() + _STALLED
            while lib.nbd_aio_is_connecting(handle) == 1:
                if lib.nbd_poll(handle, max(int((deadline - time.monotonic()) * 1000), 0)) < 0:
                    raise self._error()
                if time.monotonic() > deadline:
                    raise NbdUnavailableError(self._uri, f"an answer within {_STALLED:.0f} s", "none")
            if lib.nbd_aio_is_ready(handle) != 1:
                raise self._error()
            self._sockets[handle] = socket.socket(fileno=os.dup(lib.nbd_aio_get_fd(handle)))
        except BaseException:
            lib.nbd_close(handle)
            raise
        self._handles.put(handle)
        return handle

    def _watch(self) -> None:
        """Break connections on which nothing has come for long: a read that waits on one of them then fails."""
        while not self._closed.wait(_STALLED / 8):
            for handle, since in list(self._busy.items()):
                connection = self._sockets.get(handle)
                if connection and time.monotonic() - since > _STALLED:
                    _shut(connection)

    @contextmanager
    def _handle(self) -> Iterator[int]:
        handle = self._handles.get()
        self._busy[handle] = time.monotonic()
        try:
            yield handle
        finally:
            del self._busy[handle]
            self._handles.put(handle)

    def _pieces(self, at: int, end: int) -> Iterator[tuple[int, bool]]:
        """The lengths of what the server tells of this range, and whether each is zeros, or not dirty."""
        while at < end:
            for size, flags in self._status(at, min(end - at, _MAX_STATUS)):
                size = min(size, end - at)
                yield size, bool(flags & _ZERO) if self._context == _ALLOCATION else not flags & _DIRTY
                at += size

    def _status(self, offset: int, length: int) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []

        def collect(_: Any, context: bytes, __: int, entries: Any, count: int, ___: Any) -> int:
            if context == self._context:
                found.extend((entries[i], entries[i + 1]) for i in range(0, count, 2))
            return 0

        callback = _ExtentCallback(_Callback(collect), None, None)
        with self._handle() as handle:
            if _library().nbd_block_status(handle, length, offset, callback, 0) < 0:
                raise self._error()
        if not any(size for size, _ in found):
            raise NbdUnavailableError(self._uri, "extents", "none")
        return found

    def _error(self) -> NbdUnavailableError:
        message = (_library().nbd_get_error() or b"unknown error").decode(errors="replace")
        return NbdUnavailableError(self._uri, "", message)


def connect(uri: str, connections: int = 4, bitmap: str = "") -> NbdReader:
    """Connect to nbd://host[:port]/export or nbd+unix:///export?socket=path; raises NbdUnavailableError.

    More than one connection is made only where the server says that all see the same bytes. With the name of a bitmap
    of QEMU's, the extents tell what it marks as data, and the rest as zero, whatever the bytes are.
    """
    return NbdReader(uri, connections, bitmap)


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # the server has gone already
