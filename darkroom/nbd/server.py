"""A read-only NBD server over any Reader, on a unix socket: fixed newstyle, structured replies, block status.

One thread takes the requests of a connection and a few more answer them, so that several are in flight. What a
client may make us hold is bounded. An error of the reader becomes EIO for the client and is kept for the owner.
"""

import socket
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from darkroom import model
from darkroom.model import Extent, MiB, Reader
from darkroom.nbd import negotiation
from darkroom.nbd import protocol as p

_CONNECTIONS = 64
_IN_FLIGHT = 16
_THREADS = 8
_EXTENTS = 4096
_SECTOR = 512
_ERRORS = 16
_BUFFER = 4 * MiB
_HANDSHAKE = 30.0
"""Seconds in which a client must say the next thing before it reads."""
_STALLED = 120
"""Seconds after which a client that takes no bytes is given up."""


class NbdServer:
    """Serves `reader` on a unix socket, mode 0600, while the context lasts; `errors` holds what the reader raised."""

    def __init__(self, reader: Reader, path: Path) -> None:
        self.reader = reader
        self.path = path
        self.uri = f"nbd+unix:///?socket={path}"
        self.errors: list[BaseException] = []
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> "NbdServer":
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._listener.bind(str(self.path))
            self.path.chmod(0o600)  # nobody can connect before it listens
            self._listener.listen(_CONNECTIONS)
        except BaseException:
            self._listener.close()
            raise
        self._thread = threading.Thread(target=self._accept, name="nbd-accept", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        _shut(self._listener)
        self._thread.join()
        with self._lock:
            threads = list(self._connections.values())
            for connection in self._connections:
                _shut(connection)
        for thread in threads:
            thread.join()
        self._listener.close()
        self.path.unlink(missing_ok=True)

    def note(self, error: BaseException) -> None:
        """Keep an error of the reader for the owner: the first few, for a client may ask again and again."""
        if len(self.errors) < _ERRORS:
            self.errors.append(error)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), name="nbd-client", daemon=True)
            with self._lock:
                if len(self._connections) >= _CONNECTIONS:
                    connection.close()
                    continue
                self._connections[connection] = thread
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        pool = ThreadPoolExecutor(_THREADS, "nbd")
        try:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
            connection.settimeout(_HANDSHAKE)
            agreed = negotiation.negotiate(connection, self.reader.size)
            # From here on silence is the client's right; not taking what it asked for is not.
            connection.settimeout(None)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _STALLED, 0))
            if agreed:
                _Client(self, connection, pool, agreed).answer()
        except (OSError, EOFError, negotiation.ProtocolError):
            pass  # the client went away, or does not speak the protocol: its connection ends, nothing else
        finally:
            _shut(connection)
            pool.shutdown(wait=True, cancel_futures=True)
            with self._lock:
                del self._connections[connection]
                connection.close()


class _Client:
    """The transmission phase of one connection."""

    def __init__(
        self, server: NbdServer, connection: socket.socket, pool: ThreadPoolExecutor, agreed: negotiation.Agreed
    ) -> None:
        self.server, self.reader, self.connection, self.pool = server, server.reader, connection, pool
        self.agreed = agreed
        self.sending = threading.Lock()
        self.slots = threading.BoundedSemaphore(_IN_FLIGHT)

    def answer(self) -> None:
        """Take requests until the client disconnects."""
        while True:
            header = p.receive(self.connection, p.REQUEST_HEADER.size)
            magic, flags, command, handle, offset, length = p.REQUEST_HEADER.unpack(header)
            if magic != p.REQUEST or command == p.CMD_DISC:
                return
            if command == p.CMD_WRITE:
                if length > negotiation.MAX_REQUEST:
                    return
                p.receive(self.connection, length)  # it is refused, but its data comes behind it
            self.slots.acquire()
            self.pool.submit(self._one, flags, command, handle, offset, length)

    def _one(self, flags: int, command: int, handle: int, offset: int, length: int) -> None:
        try:
            if command not in (p.CMD_READ, p.CMD_BLOCK_STATUS):
                self._error(handle, p.EPERM)
            elif not length or offset + length > self.reader.size:
                self._error(handle, p.EINVAL)
            elif command == p.CMD_READ and length <= negotiation.MAX_REQUEST:
                self._read(handle, offset, length)
            elif command == p.CMD_BLOCK_STATUS and self.agreed.meta_context:
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
            self.server.note(error)
            self._error(handle, p.EIO)
            return
        if self.agreed.structured:
            kind = (p.REPLY_DONE, p.REPLY_OFFSET_DATA)
            header = p.STRUCTURED_HEADER.pack(p.STRUCTURED_REPLY, *kind, handle, 8 + length) + p.U64.pack(offset)
        else:
            header = p.SIMPLE_HEADER.pack(p.SIMPLE_REPLY, 0, handle)
        self._send(header, data)

    def _block_status(self, handle: int, offset: int, length: int, flags: int) -> None:
        try:
            extents = self.reader.extents(offset, length)
        except Exception as error:
            self.server.note(error)
            self._error(handle, p.EIO)
            return
        found = _in_sectors(extents)[: 1 if flags & p.FLAG_REQ_ONE else _EXTENTS]
        state = {True: p.STATE_HOLE | p.STATE_ZERO, False: 0}
        body = b"".join(p.EXTENT.pack(extent.length, state[extent.zero]) for extent in found)
        kind = (p.REPLY_DONE, p.REPLY_BLOCK_STATUS)
        header = p.STRUCTURED_HEADER.pack(p.STRUCTURED_REPLY, *kind, handle, 4 + len(body))
        self._send(header + p.U32.pack(negotiation.META_CONTEXT_ID), body)

    def _error(self, handle: int, number: int) -> None:
        if self.agreed.structured:
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


def _in_sectors(extents: list[Extent]) -> list[Extent]:
    """The same extents with zeros in whole sectors only; what is left of them counts as data.

    `qemu-img convert` rounds the length of an extent up to sectors: data behind a zero extent that ends within one
    would be lost.
    """
    start = extents[0].start if extents else 0

    def pieces() -> Iterator[tuple[int, bool]]:
        at = start
        for extent in extents:
            end = extent.end
            if end < extents[-1].end:
                end = min((end if extent.zero else end + _SECTOR - 1) // _SECTOR * _SECTOR, extents[-1].end)
            if end > at:
                yield end - at, extent.zero
                at = end

    return model.extents(start, pieces())


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it is shut already
