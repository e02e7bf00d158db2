"""The benchmark's disks: a real Debian root on a 20 GiB disk, and its next version. Needs root; takes minutes once.

v1.raw  v1.vmdk  v1.qcow2     at least 2 GiB of files
v2.raw  v2.vmdk               the same disk after packages were upgraded (installed again) and added
"""

import shutil
import subprocess
import sys
from pathlib import Path

GIB = 1 << 30
SIZE = 20 * GIB
OFFSET = 1 << 20
PACKAGES = (
    "systemd-sysv,openssh-server,linux-image-cloud-amd64,initramfs-tools,build-essential,openjdk-17-jdk-headless,"
    "clang,golang-go,nodejs,git,vim,postgresql,python3-numpy,ca-certificates,locales,man-db,gdb,valgrind,sudo"
)
ADDED = ("tmux", "htop", "jq", "rsync")
UPGRADED = (
    "openssl",
    "libssl3",
    "openssh-server",
    "openssh-client",
    "git",
    "bash",
    "libc-bin",
    "tzdata",
    "systemd",
    "sudo",
)


def build(folder: Path) -> None:
    """Build what is missing in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "v1.raw").exists():
        _first(folder, folder / "v1.raw.part")
        (folder / "v1.raw.part").rename(folder / "v1.raw")
    if not (folder / "v2.raw").exists():
        _next(folder / "v1.raw", folder / "v2.raw.part", folder / "mnt")
        (folder / "v2.raw.part").rename(folder / "v2.raw")
    for name, format in (("v1", "vmdk"), ("v1", "qcow2"), ("v2", "vmdk")):
        target = folder / f"{name}.{format}"
        if not target.exists():
            _run("qemu-img", "convert", "-f", "raw", "-O", format, folder / f"{name}.raw", target)


def _first(folder: Path, disk: Path) -> None:
    root = folder / "root"
    shutil.rmtree(root, ignore_errors=True)
    options = ("--variant=minbase", "--mode=root", f"--include={PACKAGES}", "--skip=cleanup/apt/cache")
    _run("mmdebstrap", *options, "bookworm", root)
    with open(disk, "wb") as file:
        file.truncate(SIZE)
    _run("sfdisk", "--quiet", disk, text=f"label: dos\nstart={OFFSET // 512}, type=83, bootable\n")
    blocks = (SIZE - OFFSET) // 4096
    _run("mke2fs", "-q", "-F", "-t", "ext4", "-E", f"offset={OFFSET}", "-d", root, disk, str(blocks))
    shutil.rmtree(root)


def _next(first: Path, disk: Path, mount: Path) -> None:
    _run("cp", "--sparse=always", first, disk)
    mount.mkdir(exist_ok=True)
    _run("mount", "-o", f"loop,offset={OFFSET}", disk, mount)
    try:
        shutil.copy("/etc/resolv.conf", mount / "etc/resolv.conf")
        for source in (Path("/etc/apt/sources.list"), *Path("/etc/apt").glob("*.d/*")):
            if source.is_file():
                target = mount / source.relative_to("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)
        (mount / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
        (mount / "usr/sbin/policy-rc.d").chmod(0o755)
        apt = ("chroot", mount, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o", "Dpkg::Use-Pty=0")
        _run(*apt, "update")
        _run(*apt, "install", "--reinstall", "--yes", *UPGRADED)
        _run(*apt, "install", "--yes", "--no-install-recommends", *ADDED)
        _run(*apt, "clean")
        shutil.rmtree(mount / "var/lib/apt/lists")  # as large as all that changed, and no part of a version
        _run("fstrim", mount)
    finally:
        _run("umount", mount)


def _run(*command: str | Path, text: str | None = None) -> None:
    subprocess.run([str(word) for word in command], input=text, text=True, check=True)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
