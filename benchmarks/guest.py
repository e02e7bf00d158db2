"""A Debian server that boots: systemd, ssh and what a server has, some 1 GiB of files on 20 GiB.

Needs root, takes minutes. It writes MARKER to its serial port when all that it starts is up.
"""

import shutil
import subprocess
import sys
from pathlib import Path

MARKER = "darkroom guest is up"
SIZE = 20 << 30
OFFSET = 1 << 20
PACKAGES = (
    "systemd-sysv,udev,openssh-server,linux-image-cloud-amd64,initramfs-tools,iproute2,build-essential,git,vim,"
    "postgresql,python3-numpy,nginx-light,ca-certificates,locales,man-db,sudo"
)
_SYSLINUX = """SERIAL 0 115200
DEFAULT linux
LABEL linux
  KERNEL /vmlinuz
  INITRD /initrd.img
  APPEND root=/dev/vda1 ro console=ttyS0,115200 panic=-1 quiet systemd.default_device_timeout_sec=300
"""
_SERVICE = f"""[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'echo "{MARKER}" > /dev/ttyS0'
[Install]
WantedBy=graphical.target multi-user.target
"""


def build(disk: Path) -> None:
    """Build the raw disk, unless it is there."""
    if disk.exists():
        return
    disk.parent.mkdir(parents=True, exist_ok=True)
    root, part, mount = disk.with_suffix(".root"), disk.with_suffix(".part"), disk.with_suffix(".mnt")
    shutil.rmtree(root, ignore_errors=True)
    _run("mmdebstrap", "--variant=minbase", "--mode=root", f"--include={PACKAGES}", "bookworm", root)
    (root / "etc/fstab").write_text("/dev/vda1 / ext4 defaults 0 1\n")
    (root / "etc/hostname").write_text("guest\n")
    (root / "etc/systemd/system/guest-is-up.service").write_text(_SERVICE)
    _run("chroot", root, "systemctl", "enable", "guest-is-up.service")
    _run("chroot", root, "sh", "-c", "echo root:root | chpasswd")
    with open(part, "wb") as file:
        file.truncate(SIZE)
    _run("sfdisk", "--quiet", part, text=f"label: dos\nstart={OFFSET // 512}, type=83, bootable\n")
    with open(part, "r+b") as file:
        file.write(Path("/usr/lib/syslinux/mbr/mbr.bin").read_bytes()[:440])
    blocks = str((SIZE - OFFSET) // 4096)
    options = ("-q", "-F", "-t", "ext4", "-O", "^64bit", "-E", f"offset={OFFSET}")
    _run("mke2fs", *options, "-d", root, part, blocks)
    mount.mkdir(exist_ok=True)
    _run("mount", "-o", f"loop,offset={OFFSET}", part, mount)
    try:
        (mount / "boot/syslinux").mkdir()
        (mount / "boot/syslinux/syslinux.cfg").write_text(_SYSLINUX)
        _run("extlinux", "--install", mount / "boot/syslinux")
    finally:
        _run("umount", mount)
    shutil.rmtree(root)
    mount.rmdir()
    part.rename(disk)


def _run(*command: str | Path, text: str | None = None) -> None:
    subprocess.run([str(word) for word in command], input=text, text=True, check=True)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
