"""Every primitive of the project: BLAKE3 (digests, derivation), AES-256-GCM, and HPKE from project to project.

Nonces are 96 random bits and stored with the sealed bytes (NIST SP 800-38D §8.2.2). A chunk key seals only
encodings of one chunk and a data key only the pages and run records of one image, so the number of messages
under one key stays far below the 2**32 that random nonces allow. The nonce of a chunk is not derived from
its content: another zstd version would seal another payload under the same key and nonce.
"""

import os
import struct
from uuid import UUID

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from darkroom.errors import DamagedError
from darkroom.model import Buffer

VERSION = 1
KEY_SIZE = 32
DIGEST_SIZE = 32
NONCE_SIZE = 12
TAG_SIZE = 16
OVERHEAD = NONCE_SIZE + TAG_SIZE
"""Bytes that sealing adds."""
_SECTOR = 512

_CHUNK_ID = "darkroom 2026-11-24 v1 chunk id"
_CHUNK_KEY = "darkroom 2026-11-24 v1 chunk key"
_HPKE = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
_MANIFEST_KEY = "darkroom 2026-11-27 v1 manifest key"


class SealBrokenError(DamagedError):
    """Sealed bytes do not open: they were changed, moved from elsewhere, or sealed under another key."""

    code = "seal-broken"
    what = "sealed bytes do not open: changed, misplaced, or under another key"
    default_remedy = "run `darkroom check`; restore the object from a copy, or import the image again"


def random_key() -> bytes:
    """Return 32 random bytes: a data key or a scope secret."""
    return os.urandom(KEY_SIZE)


def seal_sectors(key: bytes, data: bytes) -> bytes:
    """AES-XTS over sectors of 512 bytes, numbered from 0: what LUKS keeps its master key under. Not authenticated."""
    sealed = bytearray()
    for number, at in enumerate(range(0, len(data), _SECTOR)):
        cipher = Cipher(algorithms.AES(key), modes.XTS(number.to_bytes(16, "little"))).encryptor()
        sealed += cipher.update(data[at : at + _SECTOR]) + cipher.finalize()
    return bytes(sealed)


def digest(data: Buffer) -> bytes:
    """BLAKE3 of `data`, 32 bytes."""
    return blake3(data).digest()


def keyed_digest(secret: bytes, data: Buffer) -> bytes:
    """BLAKE3 of `data` keyed by a scope secret, 32 bytes: without the secret, equal content cannot be told."""
    return blake3(data, key=secret).digest()


def chunk_id(secret_digest: bytes) -> bytes:
    """The public name of an encrypted chunk; does not reveal the digest that its key follows from."""
    return blake3(secret_digest, derive_key_context=_CHUNK_ID).digest()


def _chunk_key(secret_digest: bytes) -> bytes:
    return blake3(secret_digest, derive_key_context=_CHUNK_KEY).digest()


def manifest_mac(data_key: bytes, image: UUID, disk: int, table_digest: bytes) -> bytes:
    """What proves, with the data key alone, that a manifest's table is the one that was written for this disk."""
    key = blake3(data_key, derive_key_context=_MANIFEST_KEY).digest()
    return blake3(_page_context(b"manifest", image, disk, 0) + table_digest, key=key).digest()


def _chunk_context(scope: UUID, identity: bytes, codec: int) -> bytes:
    return b"darkroom chunk" + struct.pack("<BB", VERSION, codec) + scope.bytes + identity


def _page_context(kind: bytes, image: UUID, disk: int, number: int) -> bytes:
    return b"darkroom " + kind + struct.pack("<B", VERSION) + image.bytes + struct.pack("<IQ", disk, number)


def _seal(key: bytes, data: Buffer, context: bytes) -> bytes:
    nonce = os.urandom(NONCE_SIZE)
    return nonce + AESGCM(key).encrypt(nonce, data, context)


def _open(key: bytes, sealed: Buffer, context: bytes, which: str) -> bytes:
    view = memoryview(sealed)
    if len(view) < OVERHEAD:
        raise SealBrokenError(which, f"at least {OVERHEAD} bytes", f"{len(view)}")
    try:
        return AESGCM(key).decrypt(view[:NONCE_SIZE], view[NONCE_SIZE:], context)
    except InvalidTag:
        raise SealBrokenError(which) from None


def seal_chunk(scope: UUID, secret_digest: bytes, codec: int, payload: Buffer) -> bytearray:
    """Seal an encoded chunk behind its codec byte; the additional data binds version, codec, scope and chunk id."""
    context = _chunk_context(scope, chunk_id(secret_digest), codec)
    nonce = os.urandom(NONCE_SIZE)
    sealed = bytearray(1 + len(payload) + OVERHEAD)
    sealed[0] = codec
    sealed[1 : 1 + NONCE_SIZE] = nonce
    # In place: joining the parts would copy every byte that is stored once more.
    AESGCM(_chunk_key(secret_digest)).encrypt_into(nonce, payload, context, memoryview(sealed)[1 + NONCE_SIZE :])
    return sealed


def open_chunk(scope: UUID, secret_digest: bytes, codec: int, sealed: Buffer) -> bytes:
    """Undo `seal_chunk`; raises SealBrokenError."""
    identity = chunk_id(secret_digest)
    which = f"chunk {identity.hex()[:16]}"
    return _open(_chunk_key(secret_digest), sealed, _chunk_context(scope, identity, codec), which)


def seal_page(data_key: bytes, image: UUID, disk: int, page: int, data: bytes) -> bytes:
    """Seal a page of a manifest; the additional data binds version, image, disk and page number."""
    return _seal(data_key, data, _page_context(b"page", image, disk, page))


def open_page(data_key: bytes, image: UUID, disk: int, page: int, sealed: Buffer) -> bytes:
    """Undo `seal_page`; raises SealBrokenError."""
    which = f"image {image} disk {disk} page {page}"
    return _open(data_key, sealed, _page_context(b"page", image, disk, page), which)


def seal_run(data_key: bytes, image: UUID, disk: int, first_chunk: int, data: bytes) -> bytes:
    """Seal the record of a finished run of chunks, which the catalog keeps until the upload ends."""
    return _seal(data_key, data, _page_context(b"run", image, disk, first_chunk))


def open_run(data_key: bytes, image: UUID, disk: int, first_chunk: int, sealed: Buffer) -> bytes:
    """Undo `seal_run`; raises SealBrokenError."""
    which = f"image {image} disk {disk} run {first_chunk}"
    return _open(data_key, sealed, _page_context(b"run", image, disk, first_chunk), which)


def new_inbox() -> tuple[bytes, bytes]:
    """Return a new X25519 key pair, private and public, 32 bytes each."""
    private = X25519PrivateKey.generate()
    return private.private_bytes_raw(), private.public_key().public_bytes_raw()


def _share_context(image: UUID, owner: UUID, member: UUID) -> bytes:
    return b"darkroom share" + struct.pack("<B", VERSION) + image.bytes + owner.bytes + member.bytes


def seal_data_key(public_key: bytes, data_key: bytes, image: UUID, owner: UUID, member: UUID) -> bytes:
    """Seal a data key to a member's inbox (HPKE base mode, RFC 9180), bound to the image and to both projects."""
    public = X25519PublicKey.from_public_bytes(public_key)
    return _HPKE.encrypt(data_key, public, _share_context(image, owner, member))


def open_data_key(private_key: bytes, sealed: bytes, image: UUID, owner: UUID, member: UUID) -> bytes:
    """Undo `seal_data_key`; raises SealBrokenError."""
    private = X25519PrivateKey.from_private_bytes(private_key)
    try:
        return _HPKE.decrypt(sealed, private, _share_context(image, owner, member))
    except InvalidTag:
        raise SealBrokenError(f"shared data key of image {image}", remedy="have its owner share it again") from None


def seal_proof(data_key: bytes, image: UUID, kind: int, data: bytes) -> bytes:
    """Seal what a boot proof showed (kind 0: the serial port, 1: the screen), which the catalog keeps."""
    return _seal(data_key, data, _page_context(b"proof", image, 0, kind))


def open_proof(data_key: bytes, image: UUID, kind: int, sealed: Buffer) -> bytes:
    """Undo `seal_proof`; raises SealBrokenError."""
    return _open(data_key, sealed, _page_context(b"proof", image, 0, kind), f"boot proof of image {image}")
