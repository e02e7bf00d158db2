"""`darkroom metrics`: the catalog's metrics and the health of the systems, printed once or served over HTTP."""

import argparse
import ipaddress
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from commands import services
from darkroom import passwords, systems
from darkroom.errors import DarkroomError
from darkroom.settings import Settings

_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_FRESH = 2.0
"""Seconds for which the systems are not asked again, however many ask us."""

_Health = dict[str, dict[str, Any]]


def add_commands(commands: Any) -> None:
    """Add the parser of this module."""
    parser = commands.add_parser("metrics", help="metrics in Prometheus' text format; --listen serves them")
    parser.add_argument(
        "--listen",
        default="",
        metavar="ADDRESS:PORT",
        help="serve /metrics and /health there until interrupted; by default print the metrics once",
    )
    parser.set_defaults(run=metrics)


def metrics(options: argparse.Namespace) -> int:
    """Print the metrics, or serve them; beyond loopback to those who know the password."""
    settings = Settings()
    if not options.listen:
        print(_metrics(settings, services.health(settings, operator=True)), end="")
        return 0
    host, port = services.address(options.listen)
    folder = settings.home / "metrics"
    password = "" if ipaddress.ip_address(host).is_loopback else passwords.kept(folder)
    try:
        server = _Server(host, port, settings, password)
    except OSError as error:
        raise services.ListenError(options.listen, "an address that is free here", error.strerror or "") from None
    with server:
        print(f"http://{f'[{host}]' if ':' in host else host}:{server.server_port}/metrics", flush=True)
        if password:
            print(f"password the line in {folder / 'password'}", flush=True)
        server.serve_forever()
    return 0


def _metrics(settings: Settings, health: _Health) -> str:
    from darkroom import metrics as metrics_of  # noqa: PLC0415 - what only reads does not load it

    with systems.operator_catalog(settings) as operator:
        return metrics_of.text(operator, {name: system["well"] for name, system in health.items()})


class _Server(ThreadingHTTPServer):
    def __init__(self, host: str, port: int, settings: Settings, password: str) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.settings, self.password = settings, password
        self._lock, self._asked = threading.Lock(), float("-inf")
        super().__init__((host, port), _Handler)

    def health(self) -> _Health:
        """What `services.health` says, or said just now: to ask is work for the systems."""
        with self._lock:
            if time.monotonic() - self._asked > _FRESH:
                self._found = services.health(self.settings, operator=True)
                self._asked = time.monotonic()
            return self._found


class _Handler(BaseHTTPRequestHandler):
    timeout = 30
    server: _Server

    def do_GET(self) -> None:
        password = self.server.password
        known = not password or passwords.is_given(self.headers.get("authorization", ""), password)
        if self.path == "/health":
            self._health(known)
        elif not known:
            self._answer(401, "text/plain; charset=utf-8", "the password is the line in metrics/password of its home\n")
        elif self.path == "/metrics":
            try:
                self._answer(200, _TEXT, _metrics(self.server.settings, self.server.health()))
            except DarkroomError as error:
                self._answer(503, "text/plain; charset=utf-8", f"{error}\n")
        else:
            self._answer(404, "text/plain; charset=utf-8", "/metrics or /health\n")

    def _health(self, known: bool) -> None:
        """Anyone may know whether all is well: load balancers have no passwords. Where what is, is not for everyone."""
        found = self.server.health()
        well = all(system["well"] for system in found.values())
        self._answer(200 if well else 503, "application/json", json.dumps(found if known else {"well": well}))

    def _answer(self, status: int, kind: str, body: str) -> None:
        data = body.encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        if status == 401:
            self.send_header("www-authenticate", 'Basic realm="darkroom metrics"')
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing: a scrape is no event."""
