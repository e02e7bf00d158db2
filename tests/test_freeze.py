"""File systems that are frozen for a capture: a small Linux with an agent, which writes all the time."""

import subprocess
import sys
from uuid import uuid4

import pytest

from darkroom.compute import agent, backup, domain, hosts
from darkroom.compute.domain import Disk, Domain
from demo import disk
from tests import agents
from tests.operations import export_image
from tests.test_capture import capture, told

DATA = 48 << 20
"""Where the file system begins (`demo.disk`)."""


@pytest.fixture
def busy(host, tmp_path, qemu_img, request):
    """A server whose guest writes all the time and has an agent, up to its login."""
    from pathlib import Path

    raw, qcow2, console = (tmp_path / name for name in ("busy.raw", "busy.qcow2", "console"))
    disk.build(raw, Path("build/packages").absolute(), getattr(request, "param", agents.FREEZES))
    qemu_img("convert", "-f", "raw", "-O", "qcow2", raw, qcow2)
    made = Domain(uuid4(), "busy", (Disk(qcow2, "qcow2"),), "tcg", memory=128, console=console)
    try:
        domain.start(host, made)
        assert domain.wait(lambda: console.exists() and disk.MARKER in console.read_text(errors="replace"), 150)
        assert domain.wait(lambda: answers(host, made), 120)
        yield made
    finally:
        domain.remove(host, made.uuid)


def answers(host, made):
    try:
        agent.ask(domain.lookup(host, made.uuid), "guest-ping", 5)
        return True
    except Exception:
        return False


def is_frozen(host, made):
    return agent.is_frozen(domain.lookup(host, made.uuid))


def test_a_server_with_an_agent_is_captured_with_a_clean_file_system(to, host, busy, tmp_path):
    image = capture(to, busy)

    assert told(to, image)["consistency"] == "filesystem"
    assert not is_frozen(host, busy)
    export_image(to, image, tmp_path / "out.raw")
    done = subprocess.run(
        ["e2fsck", "-f", "-n", f"{tmp_path}/out.raw?offset={DATA}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "recovering journal" not in done.stdout


@pytest.mark.parametrize("busy", [agents.HANGS], indirect=True, ids=["hangs"])
def test_an_agent_that_hangs_while_it_freezes_costs_bounded_time_and_is_thawed(to, host, busy, monkeypatch):
    monkeypatch.setattr(agent, "_FREEZE", 4)

    image = capture(to, busy)

    assert told(to, image)["consistency"] == "crash"
    assert not is_frozen(host, busy)


CHILD = """
import sys, time
from darkroom.compute import backup
from darkroom.settings import Settings
from darkroom.systems import open_systems
from tests import test_capture
class Server: name = "busy"
def slow(*arguments):
    print("frozen", flush=True)
    time.sleep(60)
backup._description = slow
with open_systems(Settings()) as to:
    test_capture.capture(to, Server)
"""


def test_killed_while_file_systems_are_frozen_they_thaw(to, host, busy):
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"frozen\n"
    assert is_frozen(host, busy)
    child.kill()
    child.wait(20)
    child.stdout.close()

    assert domain.wait(lambda: not is_frozen(host, busy), 60)
    assert domain.wait(lambda: not list(hosts.find(to.catalog).run.glob("capture-*")), 60)
    assert backup.PREFIX not in "".join(c.getName() for c in domain.lookup(host, busy.uuid).listAllCheckpoints())
