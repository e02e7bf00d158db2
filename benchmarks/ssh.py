"""A real Debian reached by ssh: import, boot proof, server with a key, capture while it writes, server of the capture.

    python benchmarks/ssh.py FOLDER    needs root, libvirt, QEMU, mmdebstrap, extlinux, dnsmasq-base; takes ten minutes

It runs the commands as a user does, prints each with what it said and how long it took, and stops at the first thing
that is not as it should be. Its libvirt, and the network of libvirt on which its servers are, live in a network
namespace of their own; the folder keeps the disk, for the next run.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import libvirt

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import debian
from benchmarks.capture import darkroom, judge, run, wait_until_whole
from tests import hosts

libvirt.registerErrorHandler(lambda *_: None, None)
_UP = 600
_NETWORK = """<network><name>default</name><forward mode='nat'/><bridge name='virbr0' stp='off' delay='0'/>
<ip address='192.168.122.1' netmask='255.255.255.0'><dhcp><range start='192.168.122.2' end='192.168.122.99'/></dhcp>
</ip></network>"""


def main(folder: Path) -> None:
    """Run it all in a home that goes at the end."""
    disk = debian.build(folder / "debian.raw")
    with tempfile.TemporaryDirectory(prefix="dks-", dir="/tmp") as home:
        os.environ["DARKROOM_HOME"] = f"{home}/h"
        try:
            with hosts.libvirtd(Path(home) / "l", folder / "libvirt-cache") as uri, network(uri):
                _life(uri, disk, Path(home), folder)
        finally:
            darkroom("down")


@contextmanager
def network(uri: str) -> Iterator[None]:
    """The network `default`, as Debian's libvirt has it."""
    connection = libvirt.open(uri)
    made = connection.networkCreateXML(_NETWORK)
    try:
        yield
    finally:
        made.destroy()
        connection.close()


def _life(uri: str, disk: Path, home: Path, folder: Path) -> None:
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / "id"))
    darkroom("host", "add", "kvm1", "--uri", uri, "--storage", str(home / "s"))
    darkroom("key", "create", "gold")
    darkroom("import", str(disk), "--name", "debian", "--key", "gold", "--prove-boot")
    darkroom("proof", "debian", "--screenshot", str(folder / "debian.png"))
    first = _create("debian", "web-1", home)
    first("echo it was here > proof; sync")
    first("nohup sh -c 'while :; do date +%s%N >> busy; sync; done' >/dev/null 2>&1 &")
    wait_until_whole("web-1")
    darkroom("capture", "web-1", "--name", "golden-1", "--key", "gold")
    first("pkill -f [b]usy; dd if=/dev/urandom of=more bs=1M count=20; sync; md5sum more > sum; sync")
    darkroom("capture", "web-1", "--name", "golden-2", "--key", "gold", "--since", "golden-1")
    shown = json.loads(darkroom("show", "golden-2", "--json"))
    print(f"# changed: {shown['properties']['capture']['changed_size'] >> 20} of {shown['virtual_size'] >> 20} MiB")
    darkroom("server", "delete", "web-1")
    for image, name in (("golden-1", "web-2"), ("golden-2", "web-3")):
        again = _create(image, name, home)
        assert again("cat proof").strip() == "it was here"
        assert again("hostname").strip() == name
        assert "EXT4-fs error" not in again("sudo dmesg | grep EXT4")
        judge(image, home, "/home/debian/proof")
        if image == "golden-2":
            again("md5sum -c sum")
        darkroom("server", "delete", name)
    assert hosts.domains(uri) == []


def _create(image: str, name: str, home: Path) -> Callable[[str], str]:
    """A server that was logged in to; what it returns runs a script there, which must end well."""
    began = time.monotonic()
    words = ("--ssh-key", str(home / "id.pub"), "--network", "default", "--ram", "512", "--cpus", "2")
    darkroom("server", "create", image, "--name", name, *words)

    def address() -> str:
        return " ".join(json.loads(darkroom("server", "show", name, "--json", quiet=True))["addresses"])

    while not (found := address()):
        assert time.monotonic() - began < _UP
        time.sleep(1)
    print(f"# {name} has {found} after {time.monotonic() - began:.0f} s", flush=True)
    options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "ConnectTimeout=10", "LogLevel=ERROR")
    ssh = ("ssh", "-i", str(home / "id"), *(word for option in options for word in ("-o", option)), f"debian@{found}")
    while subprocess.run((*ssh, "true"), stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode:
        assert time.monotonic() - began < _UP
        time.sleep(1)
    print(f"# ssh debian@{found} works after {time.monotonic() - began:.0f} s", flush=True)
    return lambda script: run(*ssh, script)


if __name__ == "__main__":
    if "DARKROOM_BENCHMARK_NET" not in os.environ:
        os.environ["DARKROOM_BENCHMARK_NET"] = "own"
        os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    main(Path(sys.argv[1]).absolute())
