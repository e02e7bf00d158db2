"""Things that go wrong on purpose, scripted by a string: one letter for each call or request."""

import http.client
import socket
import struct
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from darkroom.model import Buffer
from darkroom.store import Store, StoreFullError, StoreUnavailableError, s3

_ERROR = "<?xml version='1.0'?><Error><Code>{}</Code><Message>as the script says</Message></Error>"
_STATUSES = {
    "S": (503, "SlowDown"),
    "5": (500, "InternalError"),
    "Q": (403, "QuotaExceeded"),
    "F": (507, "InsufficientStorage"),
    "D": (403, "AccessDenied"),
    "X": (403, "ExpiredToken"),
}


class FaultyProxy:
    """An HTTP proxy before a real server. What a request meets, by its letter; behind the script, all is well:

    .  nothing                              C  the connection is closed before an answer
    R  a reset in the middle of the body    T  the body ends in the middle, its length said rightly
    L  half of the body, and its length     I  the whole object instead of the range
    W  a byte of the answer is another      U  a byte of the request's body is another
    P  the body comes in small pieces       and the letters of _STATUSES, errors of S3
    """

    def __init__(self, server: str, script: str = "") -> None:
        self.target = urlsplit(server)
        self.script = script
        self.seen: list[tuple[str, str]] = []
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def next_letter(self, method: str) -> str:
        with self.lock:
            letter, self.script = self.script[:1] or ".", self.script[1:]
            self.seen.append((method, letter))
        return letter

    def start(self) -> None:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultyProxy

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        letter = self.proxy.next_letter(self.command)
        if letter in _STATUSES:
            status, code = _STATUSES[letter]
            self._answer(status, {"Content-Type": "application/xml"}, _ERROR.format(code).encode())
        elif letter == "C":
            self.close_connection = True
        else:
            self._fault(letter, *self._ask(letter, body))

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve

    def _ask(self, letter: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Ask the real server; the headers go on as they are, for they are signed."""
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("connection", "expect")}
        path = self.path
        if letter == "I":  # the range is signed, so the whole object takes a signature of its own
            bucket, _, key = path.lstrip("/").partition("/")
            client = s3.new_client(self.proxy.target.geturl())
            url = client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": key})
            path, headers = url.removeprefix(self.proxy.target.geturl()), {}
        if letter == "U":
            body = _flipped(body)
        connection = http.client.HTTPConnection(self.proxy.target.hostname, self.proxy.target.port, timeout=30)
        try:
            connection.request(self.command, path, body, headers)
            answer = connection.getresponse()
            found = {name: value for name, value in answer.getheaders() if name.lower() not in ("connection", "date")}
            return answer.status, found, answer.read()
        finally:
            connection.close()

    def _fault(self, letter: str, status: int, headers: dict[str, str], body: bytes) -> None:
        half = body[: len(body) // 2]
        if letter in "RT":
            self._answer(status, headers, half, said=len(body))
            self.close_connection = True
            if letter == "R":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
        elif letter == "L":
            self._answer(status, headers, half)
        elif letter == "W":
            self._answer(status, headers, _flipped(body))
        elif letter == "P":
            self._answer(status, headers, b"", said=len(body))
            for start in range(0, len(body), 100):
                self.wfile.write(body[start : start + 100])
                self.wfile.flush()
        else:
            self._answer(status, headers, body)

    def _answer(self, status: int, headers: dict[str, str], body: bytes, said: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "server"):
                self.send_header(name, value)
        length = {name.lower(): value for name, value in headers.items()}.get("content-length", "0")
        shown = length if self.command == "HEAD" else str(len(body) if said is None else said)
        if status != 204:
            self.send_header("Content-Length", shown)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
            self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """The tests look at `seen`."""


@contextmanager
def proxy(server: str, script: str = "") -> Iterator[FaultyProxy]:
    found = FaultyProxy(server, script)
    found.start()
    try:
        yield found
    finally:
        found.stop()


class ScriptedStore:
    """A store whose calls go as a script says: O is well, E is unavailable, F is full; `then` is for those behind it.

    `ScriptedStore(store, "O" * n, then="E")` stops after n calls. Only the methods in `on` are counted.
    """

    def __init__(self, store: Store, script: str, then: str = "O", on: Iterable[str] = ("put", "get", "size")) -> None:
        self.url = store.url
        self.calls: list[tuple[str, str]] = []
        self._store, self._script, self._then, self._on = store, script, then, frozenset(on)
        self._lock = threading.Lock()

    def _step(self, method: str, key: str) -> None:
        if method not in self._on:
            return
        with self._lock:
            number = len(self.calls)
            self.calls.append((method, key))
        letter = self._script[number] if number < len(self._script) else self._then
        if letter != "O":
            raise {"E": StoreUnavailableError, "F": StoreFullError}[letter](self.url, "", "as the script says")

    def put(self, key: str, parts: Iterable[Buffer], size: int) -> None:
        self._step("put", key)
        self._store.put(key, parts, size)

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        self._step("get", key)
        return self._store.get(key, offset, length)

    def size(self, key: str) -> int:
        self._step("size", key)
        return self._store.size(key)

    def delete(self, key: str) -> None:
        self._step("delete", key)
        self._store.delete(key)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        self._step("list", prefix)
        return self._store.list(prefix)

    def check(self) -> None:
        self._step("check", "")
        self._store.check()

    def sweep(self, older_than: float) -> int:
        self._step("sweep", "")
        return self._store.sweep(older_than)


def _flipped(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :] if body else body
