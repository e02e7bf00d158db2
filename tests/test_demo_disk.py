"""The demo's disk boots, and has a partition table that others read too."""

import json
import subprocess

from demo import disk


def test_it_has_partitions(demo_disk):
    shown = subprocess.run(["/usr/sbin/sfdisk", "--json", demo_disk], capture_output=True, check=True).stdout

    assert [part["type"] for part in json.loads(shown)["partitiontable"]["partitions"]] == ["6", "83"]


def test_it_boots_to_a_login_after_import_and_export(demo_disk, to, tmp_path):
    """The whole way: VMDK in, encrypted; qcow2 out; the machine starts from it and reads its data partition."""
    from tests import operations

    vmdk, out = tmp_path / "disk.vmdk", tmp_path / "out.qcow2"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "vmdk", demo_disk, vmdk], check=True)
    image = operations.import_image(to, vmdk, key="gold")
    operations.export_image(to, image, out, "qcow2")
    command = [
        "qemu-system-x86_64",
        "-accel",
        "tcg",
        "-M",
        "pc",
        "-m",
        "256",
        "-nographic",
        "-no-reboot",
        "-nic",
        "none",
    ]
    drive = f"file={out},format=qcow2,if=virtio,snapshot=on"
    process = subprocess.Popen([*command, "-drive", drive], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        shown = b""
        while disk.MARKER.encode() not in shown:
            piece = process.stdout.read1(4096)
            assert piece, shown
            shown += piece
    finally:
        process.kill()
        process.wait()
        process.stdout.close()

    assert b"this line is read from its ext4 partition" in shown
