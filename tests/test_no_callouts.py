"""Prefect asks nothing of the internet: server, command line, worker and flow are watched by strace.

They run in a network namespace of their own, which has the loopback and no way out.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = """
import base64, fcntl, os, socket, struct, subprocess, sys, urllib.request
from pathlib import Path

with socket.socket() as any_socket:  # netdevice(7): SIOCSIFFLAGS, IFF_UP | IFF_RUNNING
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", 0x41))

from darkroom import passwords, prefect_server

def prefect(*words):
    subprocess.run([sys.executable, "-m", "prefect", *words], check=True, stdin=subprocess.DEVNULL, timeout=100)

folder = Path(sys.argv[1])
try:
    url = prefect_server.ensure(folder)
    os.environ.update(prefect_server.client_environment(url, folder))
    prefect("work-pool", "create", "tiny", "--type", "process")
    prefect("deploy", "tiny_flow.hello", "--name", "default", "--pool", "tiny")
    prefect("deployment", "run", "hello/default")
    prefect("worker", "start", "--pool", "tiny", "--run-once")
    for page in ("/collections/views/aggregate-worker-metadata", "/admin/settings"):  # what pages of the UI ask for
        token = base64.b64encode(passwords.kept(folder).encode()).decode()
        request = urllib.request.Request(url + page, headers={"authorization": "Basic " + token})
        urllib.request.urlopen(request, timeout=30).read()
    urllib.request.urlopen(url.removesuffix("api"), timeout=30).read()
    from prefect.client.orchestration import get_client
    with get_client(sync_client=True) as client:
        print("states:", *[run.state.name for run in client.read_flow_runs()])
finally:
    prefect_server.stop(folder)
"""
FLOW = """
from prefect import flow, task

@task
def step():
    return 1

@flow
def hello():
    return step()
"""
LOOPBACK = re.compile(r'inet_addr\("127\.|inet_pton\(AF_INET6, "(::1|::ffff:127\.[0-9.]+)"')


def watched(folder: Path, code: str, *arguments: str) -> tuple[str, list[str]]:
    """Run Python without a way out; return its output, and each attempt of it and its children to go elsewhere."""
    if not shutil.which("strace"):
        pytest.skip("strace is not installed")
    environment = {name: value for name, value in os.environ.items() if name != "CI"}  # which Prefect looks at
    trace = ["strace", "-f", "--seccomp-bpf", "-s", "0", "-e", "trace=connect,sendto,sendmsg,sendmmsg"]
    done = subprocess.run(
        ["unshare", "--net", "--map-root-user", *trace, "-o", "trace", sys.executable, "-c", code, *arguments],
        cwd=folder,
        env={**environment, "PYTHONPATH": f"{folder}:{ROOT}", "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    calls = (folder / "trace").read_text().splitlines()
    return done.stdout, [call for call in calls if "sa_family=AF_INET" in call and not LOOPBACK.search(call)]


def test_prefect_asks_nobody_outside_from_the_first_start_to_a_finished_run(tmp_path):
    (tmp_path / "tiny_flow.py").write_text(FLOW)
    output, elsewhere = watched(tmp_path, SCRIPT, str(tmp_path / "prefect"))

    assert "states: Completed" in output
    assert "127.0.0.1" in (tmp_path / "trace").read_text()
    assert elsewhere == []


@pytest.mark.parametrize(
    "attempt",
    [
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect_ex(('192.0.2.1', 9))",
        "import subprocess, sys; subprocess.run(['getent', 'hosts', 'prefect.example'])",
    ],
    ids=["an address", "a name"],
)
def test_an_attempt_to_go_elsewhere_would_be_seen(tmp_path, attempt):
    """The watch above is worth something; nothing leaves the namespace."""
    _, elsewhere = watched(tmp_path, attempt)

    assert elsewhere
