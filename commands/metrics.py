"""`darkroom metrics`: the catalog's metrics and the health of the systems, printed once or served over HTTP."""

import argparse
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from commands import services
from darkroom import systems
from darkroom.catalog import Catalog
from darkroom.errors import DarkroomError
from darkroom.settings import Settings

_TEXT = "text/plain; version=0.0.4; charset=utf-8"


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
    """Print the metrics, or serve them."""
    if not options.listen:
        print(_metrics(), end="")
        return 0
    host, port = services.address(options.listen)
    with ThreadingHTTPServer((host, port), _Handler) as server:
        print(f"http://{host}:{server.server_port}/metrics", flush=True)
        server.serve_forever()
    return 0


def _metrics() -> str:
    from darkroom import metrics as metrics_of  # noqa: PLC0415 - what only reads does not load it

    with Catalog(systems.catalog_dsn(Settings()), None) as operator:
        return metrics_of.text(operator)


class _Handler(BaseHTTPRequestHandler):
    timeout = 30

    def do_GET(self) -> None:
        if self.path == "/health":
            found = services.health(Settings())
            well = all(system["well"] for system in found.values())
            self._answer(200 if well else 503, "application/json", json.dumps(found))
        elif self.path == "/metrics":
            try:
                self._answer(200, _TEXT, _metrics())
            except DarkroomError as error:
                self._answer(503, "text/plain; charset=utf-8", f"{error}\n")
        else:
            self._answer(404, "text/plain; charset=utf-8", "/metrics or /health\n")

    def _answer(self, status: int, kind: str, body: str) -> None:
        data = body.encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing: a scrape is no event."""
