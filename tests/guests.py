"""Guests of one sector, in assembly: they boot in a fraction of a second and do one thing.

`checks` reads its whole disk, writes a checksum of it to the serial port, and does so again for ever, or powers off:
a guest that would notice a wrong or missing sector anywhere.
"""

import random
import subprocess
import tempfile
from pathlib import Path

from darkroom.compute import probe

SECTOR = 512
_POWERS_OFF = bytes.fromhex("ba0406 b80020 ef")
_BATCH = 64
_START = """
.code16
.globl _start
_start:
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $0x7c00, %sp
"""
_OFF = """
    movw $0x604, %dx
    movw $0x2000, %ax
    outw %ax, %dx
halt:
    hlt
    jmp halt
"""
_SIGNATURE = """
    .org 510
    .word 0xaa55
"""
_SOURCE = f"""
    cld
    movb %dl, drive
again:
    xorl %ebp, %ebp                 # the sum
    movl $0, lba
next:
    movl $SECTORS, %eax
    subl lba, %eax
    jz done
    cmpl ${_BATCH}, %eax
    jbe short
    movl ${_BATCH}, %eax
short:
    movw %ax, count
    movw $packet, %si
    movb $0x42, %ah
    movb drive, %dl
    int $0x13
    jc failed
    movzwl count, %ecx
    addl %ecx, lba
    shll $7, %ecx                   # words of 32 bits
    movw $0x1000, %ax
    movw %ax, %es
    xorl %edi, %edi
sum:
    roll $1, %ebp
    addl %es:(%di), %ebp
    addw $4, %di
    decl %ecx
    jnz sum
    jmp next
done:
    movw $3, %bx
    movb $'s', %al
    call put
    movl %ebp, %edx
    movw $8, %cx
digit:
    roll $4, %ebp
    movl %ebp, %eax
    andb $15, %al
    addb $'0', %al
    cmpb $'9', %al
    jbe decimal
    addb $39, %al
decimal:
    call put
    decw %cx
    jnz digit
    movb $'\\n', %al
    call put
    movb $ENDLESS, %al
    testb %al, %al
    jnz again
{_OFF}
failed:
    movb $'E', %al
    call put
    movb $'\\n', %al
    call put
    jmp halt
put:
    pushw %dx
    movw $0x3f8, %dx
    outb %al, %dx
    popw %dx
    ret
packet: .byte 16, 0
count:  .word 0
        .word 0, 0x1000             # to 1000:0000
lba:    .long 0, 0
drive:  .byte 0
"""

_FILLS = f"""
    movb %dl, drive
next:
    movw $packet, %si
    movw $0x4300, %ax
    movb drive, %dl
    int $0x13
    addl ${_BATCH}, lba
    andl $0x3fff, lba
    orl $1, lba
    jmp next
packet: .byte 16, 0
        .word {_BATCH}
        .word 0, 0xf000             # from the firmware, which is not zeros
lba:    .long 1, 0
drive:  .byte 0
"""

_INSTALLS = f"""
    movw $packet, %si
    movw $0x4300, %ax
    movb $0x80, %dl                 # the first hard disk
    int $0x13
    movw $said, %si
    jnc next
    movw $failed, %si
next:
    lodsb
    testb %al, %al
    jz off
    movw $0x3f8, %dx
    outb %al, %dx
    jmp next
off:
{_OFF}
packet: .byte 16, 0
        .word 1
        .word 0x7e00, 0             # the second sector
        .long 0, 0
said:   .asciz "installed\\n"
failed: .asciz "no disk\\n"
"""


def checks(size: int, *, endless: bool = False) -> bytes:
    """The first sector of a disk of `size` bytes whose guest reads all of it, again and again if `endless`."""
    return _assembled(_SOURCE.replace("SECTORS", str(size // SECTOR)).replace("ENDLESS", str(int(endless))))


def _assembled(source: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        code, elf, raw = (Path(folder, name) for name in ("code.s", "code.elf", "code"))
        code.write_text(_START + source + _SIGNATURE)
        subprocess.run(["as", "--32", "-o", elf, code], check=True)
        subprocess.run(["ld", "-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary", "-o", raw, elf], check=True)
        sector = raw.read_bytes()
    assert len(sector) == SECTOR
    return sector


def checksum(disk: bytes) -> str:
    """What `checks` writes for this disk."""
    total = 0
    for at in range(0, len(disk) // SECTOR * SECTOR, 4):
        total = ((total << 1) | (total >> 31)) & 0xFFFFFFFF
        total = (total + int.from_bytes(disk[at : at + 4], "little")) & 0xFFFFFFFF
    return f"s{total:08x}"


def bootable(path: Path, *, endless: bool = False) -> Path:
    """Make the raw disk at `path` boot into `checks`."""
    with open(path, "r+b") as file:
        size = path.stat().st_size // SECTOR * SECTOR
        file.truncate(size)
        file.write(checks(size, endless=endless))
    return path


def says(text: str) -> bytes:
    """The first sector of a guest that writes a text to its serial port, and stays."""
    return probe.sector(text=text).replace(_POWERS_OFF, b"\x90" * len(_POWERS_OFF))


def medium(path: Path, system: bytes, size: int = 3 << 20) -> Path:
    """Make an ISO at `path` whose guest writes `system`, a sector, to its first disk, says so, and powers off."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "boot").write_bytes(_assembled(_INSTALLS) + system)
        Path(folder, "packages").write_bytes(random.Random(1).randbytes(size))
        words = ["-as", "mkisofs", "-quiet", "-V", "tiny", "-b", "boot", "-no-emul-boot", "-boot-load-size", "4"]
        subprocess.run(["xorriso", *words, "-o", path, folder], check=True, capture_output=True)
    return path


def floods() -> bytes:
    """The first sector of a guest that writes to its serial port for ever, as fast as it can."""
    code = bytes.fromhex("baf803 b078 ee ebfd")  # mov dx,COM1; mov al,'x'; out dx,al; jmp back
    return code.ljust(SECTOR - 2, b"\0") + b"\x55\xaa"


def fills() -> bytes:
    """The first sector of a guest that writes all over the first 8 MiB of its disk, again and again."""
    return _assembled(_FILLS)
