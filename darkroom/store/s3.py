"""The object store in a bucket, by boto3: any endpoint that speaks S3."""

import io
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    IncompleteReadError,
    ResponseStreamingError,
)

from darkroom.errors import UnavailableError
from darkroom.model import Buffer, MiB
from darkroom.store import (
    ObjectMissingError,
    ObjectTruncatedError,
    StoreFullError,
    StoreRefusedError,
    StoreUnavailableError,
    check_key,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_CONNECTIONS = 32
_ATTEMPTS = 5
_WHOLE = 64 * MiB
_PART = 16 * MiB
_MISSING = ("404", "NoSuchKey", "NotFound")
_REFUSED = ("403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "NoSuchBucket", "AllAccessDisabled")
_FULL = ("507", "QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "EntityTooLarge")


def new_client(endpoint_url: str, credentials: tuple[str, str] | None = None) -> "S3Client":
    """A client for the endpoint, or for AWS if it is empty; None as credentials means the usual ways of boto3."""
    identity, secret = credentials or (None, None)
    config = Config(
        retries={"mode": "standard", "max_attempts": _ATTEMPTS},
        max_pool_connections=_CONNECTIONS,
        connect_timeout=5,
        read_timeout=60,
        s3={"addressing_style": "path" if endpoint_url else "auto"},
        # Servers other than AWS ignore or refuse newer checksums where they are not required.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return boto3.client(
        "s3",
        endpoint_url=endpoint_url or None,
        config=config,
        aws_access_key_id=identity,
        aws_secret_access_key=secret,
    )


class S3Store:
    """Objects below a prefix of a bucket."""

    def __init__(self, bucket: str, prefix: str, endpoint_url: str, credentials: tuple[str, str] | None = None) -> None:
        self.bucket = bucket
        self.prefix = f"{prefix}/" if prefix else ""
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        with self._errors(self.url):
            self._client = new_client(endpoint_url, credentials)

    def put(self, key: str, parts: Iterable[Buffer], size: int) -> None:
        """One request up to 64 MiB, a multipart upload above; an aborted one leaves nothing."""
        name = self._name(key)
        with self._errors(key):
            if size <= _WHOLE:
                body = b"".join(parts)
                if len(body) != size:
                    raise ValueError(f"{len(body)} bytes were given for an object of {size}")
                self._client.put_object(Bucket=self.bucket, Key=name, Body=body)
                return
            transfer = TransferConfig(multipart_threshold=_PART, multipart_chunksize=_PART, max_concurrency=4)
            stream: Any = _Stream(parts, size)
            self._client.upload_fileobj(stream, self.bucket, name, Config=transfer)

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """A ranged read; an answer cut short is asked for again."""
        if length == 0:
            self.size(key)
            return b""
        last = "" if length is None else str(offset + length - 1)
        for attempt in range(1, _ATTEMPTS + 1):
            with self._errors(key):
                try:
                    return self._get(key, offset, length, last)
                except (IncompleteReadError, ResponseStreamingError):
                    if attempt == _ATTEMPTS:
                        raise
        raise AssertionError

    def _get(self, key: str, offset: int, length: int | None, last: str) -> bytes:
        name = self._name(key)
        try:
            answer = self._client.get_object(Bucket=self.bucket, Key=name, Range=f"bytes={offset}-{last}")
        except ClientError as error:
            if _code(error) not in ("416", "InvalidRange"):
                raise
            size = self.size(key)
            if length is None and offset == size:
                return b""
            raise ObjectTruncatedError(key, f"{length} bytes at {offset}", f"{size} in all") from None
        data: bytes = answer["Body"].read()
        if length is not None and len(data) != length:
            raise ObjectTruncatedError(key, f"{length} bytes at {offset}", f"{len(data)}")
        return data

    def size(self, key: str) -> int:
        """The object's length, by HEAD."""
        with self._errors(key):
            return int(self._client.head_object(Bucket=self.bucket, Key=self._name(key))["ContentLength"])

    def delete(self, key: str) -> None:
        """Remove the object."""
        with self._errors(key):
            self._client.delete_object(Bucket=self.bucket, Key=self._name(key))

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Page through the objects below the prefix."""
        with self._errors(prefix):
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix + prefix):
                for entry in page.get("Contents", ()):
                    yield entry["Key"][len(self.prefix) :], entry["Size"]

    def check(self) -> None:
        """Write, read and remove a small object."""
        key = f"check-{secrets.token_hex(8)}"
        self.put(key, [b"darkroom"], 8)
        self.get(key)
        self.delete(key)

    def _name(self, key: str) -> str:
        return self.prefix + check_key(key)

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except UnavailableError:
            raise
        except ClientError as error:
            code = _code(error)
            if code in _MISSING:
                raise ObjectMissingError(f"{self.url}/{key}") from None
            kind: type[UnavailableError] = StoreUnavailableError
            if code in _REFUSED:
                kind = StoreRefusedError
            elif code in _FULL:
                kind = StoreFullError
            raise kind(self.url, "", code) from error
        except (BotoCoreError, OSError) as error:
            credentials = "Credential" in type(error).__name__
            refused = StoreRefusedError if credentials else StoreUnavailableError
            raise refused(self.url, "", str(error)) from error


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


class _Stream(io.RawIOBase):
    """Parts as a file to read once from; raises ValueError if they are not of the size that was said."""

    def __init__(self, parts: Iterable[Buffer], size: int) -> None:
        self._parts = iter(parts)
        self._part = memoryview(b"")
        self._left = size

    def readable(self) -> bool:
        return True

    def read(self, length: int = -1) -> Any:
        pieces, wanted = [], length if length >= 0 else self._left
        while wanted:
            if not self._part:
                following = next(self._parts, None)
                if following is None:
                    break
                self._part = memoryview(following).cast("B")
                continue
            piece = self._part[:wanted]
            pieces.append(piece)
            self._part = self._part[len(piece) :]
            wanted -= len(piece)
        data = b"".join(pieces)
        self._left -= len(data)
        if self._left < 0 or (wanted and self._left):
            raise ValueError("other bytes were given than the object's size says")
        return data
