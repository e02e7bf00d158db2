"""A read-only NBD server over any Reader, on a unix socket: fixed newstyle, structured replies, block status.

One thread takes the requests of a connection and a few more answer them, so that several are in flight. What a
client may make us hold is bounded. An error of the reader becomes EIO for the client and is kept for the owner.
"""

import os
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from darkroom.model import KiB, MiB, Reader
from darkroom.nbd import protocol as p

_MAX_REQUEST = 32 * MiB
_MAX_OPTION = 8 * KiB
_IN_FLIGHT = 16
_THREADS = 8
_MAX_EXTENTS = 4096
_BUFFER = 4 * MiB
_BLOCK_SIZES = (1, 512 * KiB, _MAX_REQUEST)
_EXPORT_FLAGS = p.HAS_FLAGS | p.READ_ONLY | p.SEND_DF | p.CAN_MULTI_CONN
_META_CONTEXT = b"base:allocation"
_META_CONTEXT_ID = 1


class NbdServer:
    """Serves `reader` on a unix socket, mode 0600, while the context lasts; `errors` holds what the reader raised."""

    def __init__(self, reader: Reader, path: Path) -> None:
        self.reader = reader
        self.path = path
        self.uri = f"nbd+unix:///?socket={path}"
        self.errors: list[BaseException] = []
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(_THREADS, "nbd")
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def __enter__(self) -> "NbdServer":
        old = os.umask(0o177)
        try:
            self._listener.bind(str(self.path))
        finally:
            os.umask(old)
        self._listener.listen(16)
        self._thread = threading.Thread(target=self._accept, name="nbd-accept", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        with self._lock:
            _shut(self._listener)
            for connection in self._connections:
                _shut(connection)
        self._thread.join()
        self._listener.close()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self.path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
            with self._lock:
                self._connections.add(connection)
            threading.Thread(target=self._serve, args=(connection,), name="nbd-client", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            client = _Client(self, connection, self._pool)
            if client.negotiate():
                client.answer()
        except (OSError, EOFError, _ProtocolError):
            pass  # the client went away, or does not speak the protocol: its connection ends, nothing else
        finally:
            with self._lock:
                self._connections.discard(connection)
            connection.close()


class _ProtocolError(Exception):
    pass


class _Client:
    """One connection: the negotiation, then its requests."""

    def __init__(self, server: NbdServer, connection: socket.socket, pool: ThreadPoolExecutor) -> None:
        self.server, self.reader, self.connection, self.pool = server, server.reader, connection, pool
        self.structured = False
        self.meta_context = False
        self.sending = threading.Lock()
        self.slots = threading.BoundedSemaphore(_IN_FLIGHT)

    def negotiate(self) -> bool:
        """Agree on options; whether the transmission phase follows."""
        self.connection.sendall(p.GREETING.pack(p.NBDMAGIC, p.IHAVEOPT, p.FIXED_NEWSTYLE | p.NO_ZEROES))
        (flags,) = p.CLIENT_FLAGS.unpack(self._receive(p.CLIENT_FLAGS.size))
        while True:
            magic, option, length = p.OPTION.unpack(self._receive(p.OPTION.size))
            if magic != p.IHAVEOPT or length > _MAX_OPTION:
                raise _ProtocolError
            data = self._receive(length)
            if option == p.OPT_EXPORT_NAME:
                padding = b"" if flags & p.NO_ZEROES else bytes(124)
                self.connection.sendall(p.EXPORT_NAME_INFO.pack(self.reader.size, _EXPORT_FLAGS) + padding)
                return True
            if option == p.OPT_ABORT:
                self._reply(option, p.REP_ACK)
                return False
            if self._option(option, data):
                return True

    def _option(self, option: int, data: bytes) -> bool:
        """Answer one option; whether it ends the negotiation."""
        if option == p.OPT_STRUCTURED_REPLY:
            self.structured = True
        elif option == p.OPT_LIST:
            self._reply(option, p.REP_SERVER, p.U32.pack(0))
        elif option in (p.OPT_INFO, p.OPT_GO):
            self._reply(option, p.REP_INFO, p.EXPORT_INFO.pack(p.INFO_EXPORT, self.reader.size, _EXPORT_FLAGS))
            self._reply(option, p.REP_INFO, p.BLOCK_SIZE_INFO.pack(p.INFO_BLOCK_SIZE, *_BLOCK_SIZES))
        elif option in (p.OPT_LIST_META_CONTEXT, p.OPT_SET_META_CONTEXT):
            if _asks_for_allocation(data) and self.structured:
                self.meta_context = self.meta_context or option == p.OPT_SET_META_CONTEXT
                self._reply(option, p.REP_META_CONTEXT, p.U32.pack(_META_CONTEXT_ID) + _META_CONTEXT)
        else:
            self._reply(option, p.REP_ERR_UNSUP)
            return False
        self._reply(option, p.REP_ACK)
        return option == p.OPT_GO

    def answer(self) -> None:
        """Take requests until the client disconnects."""
        while True:
            header = self._receive(p.REQUEST_HEADER.size)
            magic, flags, command, handle, offset, length = p.REQUEST_HEADER.unpack(header)
            if magic != p.REQUEST or command == p.CMD_DISC:
                return
            if command == 1:
                self._receive(length if length <= _MAX_REQUEST else 0)  # a write carries data; it is refused
            self.slots.acquire()
            self.pool.submit(self._one, flags, command, handle, offset, length)

    def _one(self, flags: int, command: int, handle: int, offset: int, length: int) -> None:
        try:
            if command not in (p.CMD_READ, p.CMD_BLOCK_STATUS):
                self._error(handle, p.EPERM)
            elif not length or offset + length > self.reader.size:
                self._error(handle, p.EINVAL)
            elif command == p.CMD_READ and length <= _MAX_REQUEST:
                self._read(handle, offset, length)
            elif command == p.CMD_BLOCK_STATUS and self.meta_context:
                self._block_status(handle, offset, length, flags)
            else:
                self._error(handle, p.EINVAL)
        except OSError:
            _shut(self.connection)  # the client went away; the thread that takes requests ends too
        finally:
            self.slots.release()

    def _read(self, handle: int, offset: int, length: int) -> None:
        try:
            data = self.reader.read(offset, length)
        except Exception as error:  # whatever it is, the client must hear of it and the owner too
            self.server.errors.append(error)
            self._error(handle, p.EIO)
            return
        if self.structured:
            kind = (p.REPLY_DONE, p.REPLY_OFFSET_DATA)
            header = p.STRUCTURED_HEADER.pack(p.STRUCTURED_REPLY, *kind, handle, 8 + length) + p.U64.pack(offset)
        else:
            header = p.SIMPLE_HEADER.pack(p.SIMPLE_REPLY, 0, handle)
        self._send(header, data)

    def _block_status(self, handle: int, offset: int, length: int, flags: int) -> None:
        try:
            extents = self.reader.extents(offset, length)
        except Exception as error:
            self.server.errors.append(error)
            self._error(handle, p.EIO)
            return
        extents = extents[: 1 if flags & p.FLAG_REQ_ONE else _MAX_EXTENTS]
        state = {True: p.STATE_HOLE | p.STATE_ZERO, False: 0}
        body = b"".join(p.EXTENT.pack(extent.length, state[extent.zero]) for extent in extents)
        kind = (p.REPLY_DONE, p.REPLY_BLOCK_STATUS)
        header = p.STRUCTURED_HEADER.pack(p.STRUCTURED_REPLY, *kind, handle, 4 + len(body))
        self._send(header + p.U32.pack(_META_CONTEXT_ID), body)

    def _error(self, handle: int, number: int) -> None:
        if self.structured:
            body = p.ERROR_INFO.pack(number, 0)
            kind = (p.REPLY_DONE, p.REPLY_ERROR)
            self._send(p.STRUCTURED_HEADER.pack(p.STRUCTURED_REPLY, *kind, handle, len(body)), body)
        else:
            self._send(p.SIMPLE_HEADER.pack(p.SIMPLE_REPLY, number, handle), b"")

    def _send(self, header: bytes, data: bytes) -> None:
        with self.sending:
            sent = self.connection.sendmsg([header, data])
            if sent < len(header):
                self.connection.sendall(header[sent:])
                sent = len(header)
            self.connection.sendall(memoryview(data)[sent - len(header) :])

    def _reply(self, option: int, kind: int, data: bytes = b"") -> None:
        self.connection.sendall(p.OPTION_REPLY_HEADER.pack(p.OPTION_REPLY, option, kind, len(data)) + data)

    def _receive(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            piece = self.connection.recv(length - len(data))
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)


def _asks_for_allocation(data: bytes) -> bool:
    """Whether the queries of a meta context option ask for base:allocation; no query at all asks for every one."""
    try:
        at = 4 + p.U32.unpack_from(data)[0]
        (count,) = p.U32.unpack_from(data, at)
        queries = []
        at += 4
        for _ in range(count):
            (length,) = p.U32.unpack_from(data, at)
            queries.append(data[at + 4 : at + 4 + length])
            at += 4 + length
    except struct.error as error:
        raise _ProtocolError from error
    return not queries or _META_CONTEXT in queries or b"base:" in queries


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it is shut already
