"""A new qcow2 file with a LUKS layer, in a tenth of a second: QEMU's tool takes four, stretching a key that is random.

The file is empty but for headers and tables: qcow2 version 3 as QEMU's docs/interop/qcow2.txt has it, LUKS version 1
with AES-256-XTS and one key slot as in the LUKS on-disk format 1.2. `qemu-img check` and libvirt open it as any other.
"""

import hashlib
import os
import struct
from pathlib import Path
from uuid import uuid4

from darkroom import crypto

_CLUSTER = 1 << 16
_L2_COVERS = _CLUSTER * (_CLUSTER // 8)
_SECTOR = 512
_QCOW2 = struct.Struct(">4sIQIIQIIQQIIQQQQII")
_EXTENSION = struct.Struct(">II")
_BACKING_FORMAT, _LUKS_POINTER, _END = 0xE2792ACA, 0x0537BE77, 0
_LUKS_METHOD = 2
_REFCOUNT_BITS = 4  # as a power of two
_LUKS = struct.Struct(">6sH32s32s32sII20s32sI40s")
_SLOT = struct.Struct(">II32sII")
_ENABLED, _DISABLED = 0x00AC71F3, 0x0000DEAD
_SLOTS, _STRIPES = 8, 4000
_ITERATIONS = 1000
"""Of PBKDF2, the least that LUKS allows."""
_MASTER_KEY = 64
_DIGEST = 20
_FIRST_SLOT = 8
_SLOT_SECTORS = -(-_MASTER_KEY * _STRIPES // _SECTOR // 8) * 8
_LUKS_SIZE = (_FIRST_SLOT + _SLOTS * _SLOT_SECTORS) * _SECTOR


def write(path: Path, size: int, passphrase: bytes, backing: str) -> None:
    """Write an empty qcow2 of `size` bytes under `passphrase`, over the raw disk at `backing` unless that is empty."""
    entries = max(-(-size // _L2_COVERS), 1)
    l1_at = 3
    luks_at = l1_at + -(-entries * 8 // _CLUSTER)
    clusters = luks_at + -(-_LUKS_SIZE // _CLUSTER)
    pointer = struct.pack(">QQ", luks_at * _CLUSTER, _LUKS_SIZE)
    extensions = _extension(_BACKING_FORMAT, b"raw") if backing else b""
    extensions += _extension(_LUKS_POINTER, pointer) + _extension(_END, b"")
    name = backing.encode()
    header = _QCOW2.pack(
        *(b"QFI\xfb", 3, _QCOW2.size + len(extensions) if backing else 0, len(name), 16, size, _LUKS_METHOD),
        *(entries, l1_at * _CLUSTER, _CLUSTER, 1, 0, 0, 0, 0, 0, _REFCOUNT_BITS, _QCOW2.size),
    )
    parts = {
        0: header + extensions + name,
        1: struct.pack(">Q", 2 * _CLUSTER),
        2: struct.pack(">H", 1) * clusters,
        luks_at: _luks(passphrase),
    }
    with open(path, "wb") as file:
        for cluster, data in parts.items():
            file.seek(cluster * _CLUSTER)
            file.write(data)
        file.truncate(clusters * _CLUSTER)


def _luks(passphrase: bytes) -> bytes:
    """A LUKS header with its first key slot, of a new master key, which `passphrase` opens."""
    master, salt, slot_salt = os.urandom(_MASTER_KEY), os.urandom(32), os.urandom(32)
    header = _LUKS.pack(
        *(b"LUKS\xba\xbe", 1, b"aes", b"xts-plain64", b"sha256", _LUKS_SIZE // _SECTOR, _MASTER_KEY),
        *(_stretch(master, salt, _DIGEST), salt, _ITERATIONS, str(uuid4()).encode()),
    )
    for number in range(_SLOTS):
        state = (_ENABLED, _ITERATIONS, slot_salt) if number == 0 else (_DISABLED, 0, b"")
        header += _SLOT.pack(*state, _FIRST_SLOT + number * _SLOT_SECTORS, _STRIPES)
    material = crypto.seal_sectors(_stretch(passphrase, slot_salt, _MASTER_KEY), _split(master))
    return header.ljust(_FIRST_SLOT * _SECTOR, b"\0") + material


def _split(master: bytes) -> bytes:
    """The key in stripes, of which all are needed: LUKS's anti-forensic splitter."""
    block, stripes = bytes(len(master)), []
    for _ in range(_STRIPES - 1):
        stripes.append(os.urandom(len(master)))
        block = _diffuse(_xor(block, stripes[-1]))
    return b"".join([*stripes, _xor(block, master)])


def _diffuse(block: bytes) -> bytes:
    size = hashlib.sha256().digest_size
    return b"".join(
        hashlib.sha256(number.to_bytes(4, "big") + block[at : at + size]).digest()
        for number, at in enumerate(range(0, len(block), size))
    )


def _xor(one: bytes, other: bytes) -> bytes:
    return (int.from_bytes(one) ^ int.from_bytes(other)).to_bytes(len(one))


def _stretch(key: bytes, salt: bytes, length: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", key, salt, _ITERATIONS, length)


def _extension(kind: int, data: bytes) -> bytes:
    return _EXTENSION.pack(kind, len(data)) + data.ljust(-(-len(data) // 8) * 8, b"\0")
