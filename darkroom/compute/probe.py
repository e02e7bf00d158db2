"""Whether guests really run under KVM on a host: a sector of code is booted, for /dev/kvm alone proves nothing.

Where the machine is itself a guest, KVM may open, say that it works, and then interpret each instruction or stop at
one that it does not know. So the sector counts to some millions in a time that an interpreter cannot reach, and
powers the machine off; else the host emulates (TCG), slower and always right.
"""

import tempfile
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from darkroom.compute import domain
from darkroom.compute.domain import Disk, Domain
from darkroom.errors import DarkroomError

MARKER = "darkroom sector"
_KVM = 4.0
_TCG = 60.0
_COUNT = 50_000_000
_LOADED_AT = 0x7C00
_TEXT = 0x80
_DISK = 1 << 20


def accelerator(host: Any, folder: Path) -> Literal["kvm", "tcg", ""]:
    """How guests run best on this host; "" if not at all. `folder` is one that QEMU may read and write."""
    if _boots(host, folder, "kvm", _KVM):
        return "kvm"
    return "tcg" if _boots(host, folder, "tcg", _TCG) else ""


def sector(count: int = 1, text: str = MARKER) -> bytes:
    """A boot sector that counts down from `count`, writes `text` to the first serial port, and powers off."""
    code = bytes.fromhex("31c0 8ed8 fa fc")  # xor ax,ax; mov ds,ax; cli; cld
    code += bytes.fromhex("66b9") + count.to_bytes(4, "little")  # mov ecx,count
    code += bytes.fromhex("6649 75fc")  # dec ecx; jnz back
    code += bytes.fromhex("be") + (_LOADED_AT + _TEXT).to_bytes(2, "little")  # mov si,text
    code += bytes.fromhex("baf803 ac 84c0 7403 ee ebf8")  # mov dx,COM1; lodsb; test al,al; jz on; out dx,al; jmp back
    code += bytes.fromhex("ba0406 b80020 ef f4 ebfd")  # mov dx,QEMU's ACPI port; mov ax,off; out dx,ax; hlt; jmp back
    return code.ljust(_TEXT, b"\0") + (text.encode() + b"\r\n\0").ljust(510 - _TEXT, b"\0") + b"\x55\xaa"


def _boots(host: Any, folder: Path, kind: Literal["kvm", "tcg"], seconds: float) -> bool:
    uuid = uuid4()
    with tempfile.TemporaryDirectory(prefix="probe-", dir=folder) as temporary:
        disk, console = Path(temporary, "disk"), Path(temporary, "console")
        disk.write_bytes(sector(_COUNT if kind == "kvm" else 1).ljust(_DISK, b"\0"))
        disk.chmod(0o666)  # QEMU may run under another account
        Path(temporary).chmod(0o777)
        guest = Domain(uuid, f"darkroom-{uuid}", (Disk(disk, "raw"),), kind, memory=32, console=console, transient=True)
        try:
            domain.start(host, guest)
            domain.wait(lambda: not domain.exists(host, uuid), seconds)
            return MARKER.encode() in console.read_bytes()
        except (DarkroomError, OSError):
            return False  # such as no such accelerator, or no right to write the console
        finally:
            domain.remove(host, uuid)
