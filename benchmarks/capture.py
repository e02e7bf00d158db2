"""A real Debian through its life: import, boot proof, capture while it writes, incremental capture, full server, OVA.

    python benchmarks/capture.py FOLDER        needs root, libvirt and QEMU, mmdebstrap and extlinux; takes ten minutes

It runs the commands as a user does, prints each with what it said and how long it took, and stops at the first thing
that is not as it should be. Its libvirt is one of its own; the folder keeps the disk, for the next run.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import libvirt
import libvirt_qemu

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import debian
from tests import hosts

libvirt.registerErrorHandler(lambda *_: None, None)  # else each question before the agent answers is an error on stderr
_OFFSET = 1 << 20
_READY = 600


def main(folder: Path) -> None:
    """Run it all in a home that goes at the end."""
    disk = debian.build(folder / "debian.raw")
    with tempfile.TemporaryDirectory(prefix="dkc-", dir="/tmp") as home:
        os.environ["DARKROOM_HOME"] = f"{home}/h"
        try:
            with hosts.libvirtd(Path(home) / "l", folder / "libvirt-cache") as uri:
                _life(uri, disk, Path(home), folder)
        finally:
            darkroom("down")


def _life(uri: str, disk: Path, home: Path, folder: Path) -> None:
    darkroom("host", "add", "kvm1", "--uri", uri, "--storage", str(home / "s"))
    darkroom("key", "create", "gold")
    darkroom("import", str(disk), "--name", "debian", "--key", "gold", "--prove-boot")
    darkroom("proof", "debian", "--screenshot", str(folder / "debian.png"))
    server = darkroom(
        "server", "create", "debian", "--name", "web-1", "--ram", "512", "--cpus", "2", "--network", "none"
    )
    connection = libvirt.open(uri)
    guest = Guest(connection, server.splitlines()[-1])
    guest.wait_for_agent()
    guest.run("echo it was here > /root/proof; sync")
    guest.run("nohup sh -c 'while :; do date +%s%N >> /var/log/busy; sync; done' >/dev/null 2>&1 &")
    wait_until_whole("web-1")
    darkroom("capture", "web-1", "--name", "golden-1", "--key", "gold")
    judge("golden-1", home)
    guest.run("pkill -f [l]og/busy; dd if=/dev/urandom of=/root/more bs=1M count=20; sync")
    darkroom("capture", "web-1", "--name", "golden-2", "--key", "gold", "--since", "golden-1")
    shown = json.loads(darkroom("show", "golden-2", "--json"))
    print(f"# changed: {shown['properties']['capture']['changed_size'] >> 20} of {shown['virtual_size'] >> 20} MiB")
    assert shown["properties"]["capture"]["consistency"] == "filesystem"
    judge("golden-2", home)
    data = home / "data.raw"
    with open(data, "wb") as file:
        file.truncate(64 << 20)
    darkroom("import", str(data), "--name", "empty", "--type", "data")
    darkroom("volume", "create", "empty", "--name", "data-1", "--attach", "web-1")
    wait_until_whole("web-1")
    guest.run("mkfs.ext4 -q /dev/vdb && mount /dev/vdb /mnt && cp /root/more /mnt/ && sync")
    darkroom("capture", "web-1", "--name", "whole-1", "--all-disks", "--key", "gold")
    darkroom("export", "whole-1", str(home / "whole.ova"))
    darkroom("import", str(home / "whole.ova"), "--name", "whole-2", "--key", "gold")
    first, second = (json.loads(darkroom("show", name, "--json")) for name in ("whole-1", "whole-2"))
    assert first["content_digest"] == second["content_digest"]
    assert [image["type"] for image in (first, second)] == ["full", "full"]
    darkroom("boot-test", "golden-1")
    darkroom("proof", "golden-1", "--screenshot", str(folder / "golden.png"))
    darkroom("server", "delete", "web-1")
    darkroom("volume", "delete", "data-1")
    connection.close()
    assert hosts.domains(uri) == []


def judge(name: str, home: Path, file: str = "/root/proof") -> None:
    """The file system is clean, and holds what was written before the capture; by e2fsprogs."""
    raw = home / f"{name}.raw"
    darkroom("export", name, str(raw), "--format", "raw")
    said = run("e2fsck", "-f", "-n", f"{raw}?offset={_OFFSET}")
    assert "clean" in said or "non-contiguous" in said, said
    assert run("debugfs", "-R", f"cat {file}", f"{raw}?offset={_OFFSET}").strip().endswith("it was here")
    raw.unlink()


def wait_until_whole(name: str) -> None:
    """Until nothing is left to copy."""
    deadline = time.monotonic() + _READY
    while any(
        disk["status"] != "whole"
        for disk in json.loads(darkroom("server", "show", name, "--json", quiet=True))["disks"]
    ):
        assert time.monotonic() < deadline
        time.sleep(1)


class Guest:
    """A server, talked to by its agent."""

    def __init__(self, connection: libvirt.virConnect, uuid: str) -> None:
        self.domain = connection.lookupByUUIDString(uuid)

    def ask(self, command: str, **arguments: object) -> dict:
        """What the agent says."""
        request = json.dumps({"execute": command, "arguments": arguments})
        return json.loads(libvirt_qemu.qemuAgentCommand(self.domain, request, 30, 0))["return"]

    def wait_for_agent(self) -> None:
        """Until it answers."""
        started = time.monotonic()
        while True:
            try:
                self.ask("guest-ping")
                print(f"# the agent answers after {time.monotonic() - started:.0f} s")
                return
            except libvirt.libvirtError:
                assert time.monotonic() - started < _READY
                time.sleep(1)

    def run(self, script: str) -> None:
        """Run a script in the guest, which must end well."""
        words = {"path": "/bin/sh", "arg": ["-c", script], "capture-output": False}
        pid = self.ask("guest-exec", **words)["pid"]
        while not (state := self.ask("guest-exec-status", pid=pid))["exited"]:
            time.sleep(0.5)
        print(f"# in the guest: {script}")
        assert state.get("exitcode") == 0, state


def darkroom(*words: str, quiet: bool = False) -> str:
    """Run a command; prints it with what it said."""
    return run(str(Path(sys.executable).parent / "darkroom"), *words, quiet=quiet)


def run(*words: str, quiet: bool = False) -> str:
    """Run a program; prints it with what it said and how long it took."""
    started = time.monotonic()
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    took = time.monotonic() - started
    if not quiet:
        said = "" if "--json" in words else done.stdout.strip()
        print(f"$ {Path(words[0]).name} {' '.join(words[1:])}\n{said}\n# {took:.1f} s", flush=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
