"""Real servers for the tests, which die with the test run however it ends."""

import json
import random
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CREDENTIALS = ("test-access", "test-secret")
KMS_REGION = "eu-west-1"
_PORTS = ("s3.port", "master.port", "filer.port", "volume.port", "admin.port")


class S3Server:
    """SeaweedFS with one access key; its data and its ports stay when it is killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
        self.url = f"http://127.0.0.1:{self._ports['s3.port']}"
        identity = {
            "name": "test",
            "credentials": [{"accessKey": CREDENTIALS[0], "secretKey": CREDENTIALS[1]}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        (folder / "data").mkdir(exist_ok=True)

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [
            *("setpriv", "--pdeathsig", "KILL", Path(sys.executable).with_name("weed"), "mini"),
            *(f"-dir={self._folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
            *(f"-{name}={port}" for name, port in self._ports.items()),
            *(f"-s3.config={self._folder / 's3.json'}", "-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false"),
            *("-s3.autoCreateBucket=false", "-s3.allowDeleteBucketNotEmpty=false", "-admin.ui=false"),
            *("-master.telemetry=false", "-master.volumeSizeLimitMB=256", "-volume.max=5000"),
        ]
        with open(self._folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [str(word) for word in command], stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self._folder
            )
        deadline = time.monotonic() + 60
        while not _answers(self.url):
            said = (self._folder / "log").read_text(errors="replace")[-2000:]
            assert self._process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.05)

    def kill(self) -> None:
        """As a crash does, with no time to tidy up."""
        self._process.kill()
        self._process.wait()
        for port in self._ports.values():
            for number in (port, port + 10_000):
                for socket_left in Path("/tmp").glob(f"seaweedfs-*-{number}.sock"):
                    socket_left.unlink()


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    server = S3Server(folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder / "data")


def _free_ports(count: int) -> list[int]:
    """Ports that are free now, as are those 10000 above, where SeaweedFS speaks gRPC.

    They lie below the ports that the system gives to clients, which could take one before the server does.
    """
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(11_000, 22_000)
        if port not in found and _is_free(port) and _is_free(port + 10_000):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=2)
    except urllib.error.HTTPError as error:
        return error.code < 500
    except OSError:
        return False
    return True


class KmsServer:
    """A KMS server in a process of its own; see `tests/kms_server.py`. It forgets its keys when it ends."""

    def __init__(self) -> None:
        command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "tests.kms_server"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdin
        assert self._process.stdout
        port = self._process.stdout.readline().strip()
        assert port, "the KMS server did not start"
        self.url = f"http://127.0.0.1:{port}"

    def rule(self, **rules: object) -> None:
        """Change what the guard enforces."""
        request = urllib.request.Request(f"{self.url}/guard", json.dumps(rules).encode())
        urllib.request.urlopen(request, timeout=10).close()

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def kms_server() -> Iterator[KmsServer]:
    server = KmsServer()
    try:
        yield server
    finally:
        server.kill()
