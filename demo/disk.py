"""A small real Linux disk that boots: MBR, syslinux on FAT16, a kernel of Debian's, an initramfs of busybox, and an
ext4 partition with files. Built without root and without loop devices.
"""

import gzip
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

MIB = 1 << 20
MARKER = "darkroom demo login:"
_BOOT = (1 * MIB, 47 * MIB)
_DATA = (48 * MIB, 80 * MIB)
_SIZE = 128 * MIB
_MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "virtio_balloon", "ext4")
_SYSLINUX = """SERIAL 0 115200
DEFAULT linux
LABEL linux
  KERNEL vmlinuz
  INITRD initrd
  APPEND console=ttyS0,115200 panic=-1 quiet
"""
_INIT = f"""#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do insmod /modules/$module; done
for try in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/vda2 ] && break; sleep 1; done
mount -t ext4 -o ro /dev/vda2 /mnt && cat /mnt/motd
SCRIPT
echo
echo "{MARKER}"
exec setsid cttyhack sh
"""


def build(path: Path, cache: Path, script: str = "") -> None:
    """Write the disk as a raw file to `path`; packages are downloaded once into `cache`.

    `script` is for the guest's shell, which runs it before it asks for a login.
    """
    tree = _packages(cache)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        kernel = next((tree / "boot").glob("vmlinuz-*"))
        (folder / "initrd").write_bytes(gzip.compress(_initramfs(tree, folder / "initramfs", script), 6))
        (folder / "syslinux.cfg").write_text(_SYSLINUX)
        part = folder / "disk"
        with open(part, "wb") as file:
            file.truncate(_SIZE)
        _partition(part)
        boot = f"{part}@@{_BOOT[0]}"
        _run(
            "mformat", "-i", boot, "-T", str(_BOOT[1] // 512), "-h", "64", "-s", "32", "-H", str(_BOOT[0] // 512), "::"
        )
        for source, name in (
            (kernel, "vmlinuz"),
            (folder / "initrd", "initrd"),
            (folder / "syslinux.cfg", "syslinux.cfg"),
        ):
            _run("mcopy", "-i", boot, str(source), f"::{name}")
        _run("syslinux", "--install", "--offset", str(_BOOT[0]), str(part))
        _write_data(part, tree, folder / "files")
        shutil.move(part, path)


def _packages(cache: Path) -> Path:
    """The unpacked packages: a kernel for virtual machines and a static busybox; they are not installed."""
    tree = cache / "tree"
    if tree.is_dir():
        return tree
    cache.mkdir(parents=True, exist_ok=True)
    architecture = {"x86_64": "amd64"}[platform.machine()]
    depends = _run("apt-cache", "depends", f"linux-image-cloud-{architecture}")
    kernel = next(line.split()[1] for line in depends.splitlines() if "Depends: linux-image" in line)
    part = Path(tempfile.mkdtemp(dir=cache))
    part.chmod(0o777)  # apt downloads as an account of its own when it can
    for package in (kernel, "busybox-static"):
        _run("apt-get", "-qq", "download", package, folder=part)
    for archive in sorted(part.glob("*.deb")):
        _run("dpkg-deb", "-x", str(archive), str(part / "tree"))
    (part / "tree").rename(tree)
    shutil.rmtree(part)
    return tree


def _initramfs(tree: Path, root: Path, script: str) -> bytes:
    for name in ("bin", "proc", "sys", "dev", "mnt", "modules"):
        (root / name).mkdir(parents=True)
    shutil.copy(tree / "bin/busybox", root / "bin/busybox")
    order = list(dict.fromkeys(_with_dependencies(tree)))
    for module in order:
        shutil.copy(module, root / "modules" / module.name)
    (root / "modules/order").write_text("\n".join(module.name for module in order))
    (root / "init").write_text(_INIT.replace("SCRIPT", script))
    (root / "init").chmod(0o755)
    names = "\n".join(sorted(str(path.relative_to(root)) for path in root.rglob("*")))
    command = ["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"]
    return subprocess.run(command, cwd=root, input=names.encode(), stdout=subprocess.PIPE, check=True).stdout


def _with_dependencies(tree: Path) -> Iterator[Path]:
    """The modules in an order in which each comes after what it needs."""
    base = next((tree / "lib/modules").iterdir())
    found = {path.name.partition(".")[0].replace("-", "_"): path for path in base.rglob("*.ko*")}

    def needs(name: str) -> Iterator[Path]:
        path = found.get(name)
        if path is None:
            return  # built into the kernel
        fields = _run("modinfo", "-F", "depends", str(path)).strip()
        extra = ["crc32c_generic"] if name == "ext4" else []
        for other in [*filter(None, fields.split(",")), *extra]:
            yield from needs(other.replace("-", "_"))
        yield path

    for name in _MODULES:
        yield from needs(name)


def _partition(disk: Path) -> None:
    table = f"label: dos\nstart={_BOOT[0] // 512}, size={_BOOT[1] // 512}, type=6, bootable\n"
    table += f"start={_DATA[0] // 512}, size={_DATA[1] // 512}, type=83\n"
    _run("sfdisk", "--quiet", str(disk), text=table)
    with open(disk, "r+b") as file:
        file.write(Path("/usr/lib/syslinux/mbr/mbr.bin").read_bytes()[:440])


def _write_data(disk: Path, tree: Path, files: Path) -> None:
    files.mkdir()
    (files / "motd").write_text("A disk of Darkroom's demo: this line is read from its ext4 partition.\n")
    shutil.copytree(tree / "usr/share/doc", files / "doc")
    (files / "numbers").write_bytes(b"".join(number.to_bytes(8, "little") for number in range(1 << 20)))
    blocks = str(_DATA[1] // 1024) + "k"
    _run("mke2fs", "-q", "-F", "-t", "ext4", "-E", f"offset={_DATA[0]}", "-d", str(files), str(disk), blocks)


def _run(*command: str, text: str | None = None, folder: Path | None = None) -> str:
    environment = {**os.environ, "MTOOLS_SKIP_CHECK": "1", "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    done = subprocess.run(command, input=text, text=True, capture_output=True, cwd=folder, env=environment, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(sys.argv[2]))
