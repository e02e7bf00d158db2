"""A web server that serves one file, and misbehaves by a script."""

import re
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """What is served at any path, and how.

    `script` has a letter for each request in turn, and "O" (all right) behind its end: R reset in the middle of the
    body, T truncated body, 5 status 503, F status 403, N status 404, L Content-Length is half of the body, H no answer.
    """

    data: bytes
    etag: str = '"one"'
    modified: str = ""
    ranges: bool = True
    chunked: bool = False
    length: bool = True
    heeds_if_match: bool = True
    headers: dict[str, str] = field(default_factory=dict)
    content_range: str = ""
    script: str = ""
    redirects: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    conditions: list[str] = field(default_factory=list)
    whole_bodies: int = 0
    """How many bodies were sent to their end."""
    change_at: tuple[int, bytes, str] | None = None
    """From this request on, other data under another ETag."""
    port: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ranges_asked(self) -> list[str]:
        return [asked for _, asked in self.requests]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def site(self) -> Site:
        return self.server.site

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        site = self.site
        with site.lock:
            number = len(site.requests)
            site.requests.append((self.path, self.headers.get("Range", "")))
            site.conditions.append(self.headers.get("If-Match", ""))
            if site.change_at and number >= site.change_at[0]:
                _, site.data, site.etag = site.change_at
        fault = site.script[number] if number < len(site.script) else "O"
        if self.path in site.redirects:
            return self._empty(302, Location=site.redirects[self.path])
        if fault in "5FN":
            return self._empty({"5": 503, "F": 403, "N": 404}[fault])
        if fault == "H":
            return self._break()
        if site.heeds_if_match and self.headers.get("If-Match", site.etag) != site.etag:
            return self._empty(412)
        return self._file(fault)

    def _file(self, fault):
        site = self.site
        body, status, headers = site.data, 200, dict(site.headers)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked and site.ranges:
            start, end = int(asked[1]), min(int(asked[2] or len(body)), len(body) - 1)
            if start >= len(body):
                return self._empty(416)
            status, headers["Content-Range"] = 206, f"bytes {start}-{end}/{len(body)}"
            headers["Content-Range"] = site.content_range or headers["Content-Range"]
            body = body[start : end + 1]
        if site.etag:
            headers["ETag"] = site.etag
        if site.modified:
            headers["Last-Modified"] = site.modified
        if site.chunked:
            headers["Transfer-Encoding"] = "chunked"
        elif site.length:
            headers["Content-Length"] = str(len(body) // 2 if fault == "L" else len(body))
        else:
            headers["Connection"] = "close"
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return None
        try:
            return self._body(body, fault)
        except OSError:
            self.close_connection = True

    def _body(self, body, fault):
        sent = body[: len(body) // 2] if fault in "RTL" else body
        if self.site.chunked:
            for at in range(0, len(sent), 1 << 16):
                piece = sent[at : at + (1 << 16)]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            if fault == "O":
                self.wfile.write(b"0\r\n\r\n")
        else:
            self.wfile.write(sent)
        self.wfile.flush()
        with self.site.lock:
            self.site.whole_bodies += fault == "O"
        if fault == "R":
            self._break()
        elif fault == "T":
            self.close_connection = True

    def _break(self):
        """Reset the connection."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def _empty(self, status, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def serve(site: Site, tls: ssl.SSLContext | None = None) -> Iterator[Site]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.site = site
    server.handle_error = lambda *_: None
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    site.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
