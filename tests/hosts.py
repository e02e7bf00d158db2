"""A private libvirt for the tests, which does not touch the machine's own, and tiny guests for it.

libvirtd has no option for its folders: it gets its own by bind mounts in a mount namespace. It dies with the test
run however that ends, and so do its domains.
"""

import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import libvirt

_FOLDERS = {"etc": "/etc/libvirt", "lib": "/var/lib/libvirt", "run": "/run/libvirt", "log": "/var/log/libvirt"}
_LIBVIRTD = """
unix_sock_dir = "{folder}/sock"
auth_unix_rw = "none"
auth_unix_ro = "none"
"""
_QEMU = """
user = "{user}"
group = "{user}"
dynamic_ownership = {owns}
remember_owner = {owns}
security_driver = "none"
stdio_handler = "file"
namespaces = []
cgroup_controllers = []
"""


@contextmanager
def libvirtd(folder: Path, cache: Path, user: str = "root") -> Iterator[str]:
    """Run it with all its files below `folder`, which has a short name; yields the URI.

    What it finds out about QEMU, which takes it seconds, is kept in `cache` for the next run. QEMU runs as `user`; if
    that is not root, libvirt gives it the files and takes them back, as a distribution has it.
    """
    mounts = {folder / name: Path(place) for name, place in _FOLDERS.items()} | {cache: Path("/var/cache/libvirt")}
    for source, place in mounts.items():
        source.mkdir(parents=True, exist_ok=True)
        place.mkdir(parents=True, exist_ok=True)
    (folder / "sock").mkdir()
    (folder / "etc/libvirtd.conf").write_text(_LIBVIRTD.format(folder=folder))
    (folder / "etc/qemu.conf").write_text(_QEMU.format(user=user, owns=int(user != "root")))
    if Path("/dev/kvm").exists() and user != "root":
        # Where libvirt may use it and QEMU may not, libvirt asks QEMU for what it can do again and again.
        os.mknod(folder / "kvm", stat.S_IFCHR | 0o660, os.stat("/dev/kvm").st_rdev)
        shutil.chown(folder / "kvm", user, user)
        mounts[folder / "kvm"] = Path("/dev/kvm")
    script = "".join(f"mount --bind {source} {place} && " for source, place in mounts.items())
    script += f"exec setpriv --pdeathsig KILL libvirtd -f /etc/libvirt/libvirtd.conf -p {folder}/pid"
    with open(folder / "log/libvirtd.log", "ab") as log:
        process = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "slave", "sh", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    uri = f"qemu+unix:///system?socket={folder}/sock/libvirt-sock"
    try:
        _wait_for(uri, process, folder / "log/libvirtd.log")
        yield uri
    finally:
        _end_domains(uri)
        process.terminate()
        process.wait(30)
        shutil.rmtree(folder)


def domains(uri: str) -> list[str]:
    """The names of all domains, running or not."""
    connection = libvirt.open(uri)
    try:
        return [domain.name() for domain in connection.listAllDomains()]
    finally:
        connection.close()


def _wait_for(uri: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 90
    while True:
        try:
            libvirt.open(uri).close()
            return
        except libvirt.libvirtError:
            said = log.read_text(errors="replace")[-2000:]
            assert process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.05)


def _end_domains(uri: str) -> None:
    connection = libvirt.open(uri)
    for domain in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
        domain.destroy()
    connection.close()


def kill(pid: int) -> None:
    """As a crash does, and wait until it is gone."""
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while _alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
