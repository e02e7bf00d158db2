"""A small real Debian that boots: systemd, ssh, cloud-init, the guest agent, a login on the serial port.

Needs root; minutes once. Without a seed cloud-init stays off.

The packages mmdebstrap and extlinux build it: `apt-get install mmdebstrap extlinux`.
"""

import shutil
import subprocess
import sys
from pathlib import Path

SIZE = 2 << 30
OFFSET = 1 << 20
_PACKAGES = (
    "systemd-sysv,udev,dbus,linux-image-cloud-amd64,initramfs-tools,openssh-server,sudo,cloud-init,qemu-guest-agent,"
    "iproute2"
)
_CONFIG = """DEFAULT linux
LABEL linux
  KERNEL /boot/vmlinuz
  INITRD /boot/initrd.img
  APPEND root=/dev/vda1 rw console=tty0 console=ttyS0,115200 net.ifnames=0 systemd.default_device_timeout_sec=600
"""
_NETWORK = "[Match]\nName=eth0\n[Network]\nDHCP=yes\n"


def build(disk: Path) -> Path:
    """Build the raw disk, unless it is there."""
    if disk.exists():
        return disk
    root, part = disk.with_suffix(".root"), disk.with_suffix(".part")
    disk.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(root, ignore_errors=True)
    _run("mmdebstrap", "--variant=minbase", "--mode=root", f"--include={_PACKAGES}", "bookworm", root)
    (root / "etc/fstab").write_text("/dev/vda1 / ext4 defaults 0 1\n")
    (root / "etc/hostname").write_text("debian\n")
    (root / "etc/systemd/network/eth0.network").write_text(_NETWORK)
    (root / "etc/cloud/cloud.cfg.d/90-network.cfg").write_text("network: {config: disabled}\n")
    (root / "boot/extlinux.conf").write_text(_CONFIG)
    for link in ("vmlinuz", "initrd.img"):
        shutil.copy(root / link, root / "boot" / link)
    _run("chroot", root, "sh", "-c", "echo root:root | chpasswd; systemctl enable systemd-networkd")
    with open(part, "wb") as file:
        file.truncate(SIZE)
    _run("sfdisk", "--quiet", part, text=f"label: dos\nstart={OFFSET // 512}, type=83, bootable\n")
    blocks = str((SIZE - OFFSET) // 4096)
    _run(
        "mke2fs",
        "-q",
        "-F",
        "-t",
        "ext4",
        "-b",
        "4096",
        "-O",
        "^64bit",
        "-E",
        f"offset={OFFSET}",
        "-d",
        root,
        part,
        blocks,
    )
    mount = disk.with_suffix(".mnt")
    mount.mkdir(exist_ok=True)
    _run("mount", "-o", f"loop,offset={OFFSET},sizelimit={SIZE - OFFSET}", part, mount)
    try:
        _run("extlinux", "--install", mount / "boot")
    finally:
        _run("umount", mount)
        mount.rmdir()
    with open(part, "r+b") as file:
        file.write(Path("/usr/lib/EXTLINUX/mbr.bin").read_bytes()[:440])
    shutil.rmtree(root)
    return part.rename(disk)


def _run(*command: str | Path, text: str | None = None) -> None:
    subprocess.run([str(word) for word in command], input=text, text=True, check=True)


if __name__ == "__main__":
    print(build(Path(sys.argv[1])))
