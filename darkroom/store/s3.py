"""The object store in a bucket, by boto3: any endpoint that speaks S3."""

import base64
import re
import time
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
from botocore import exceptions
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from darkroom import store
from darkroom.errors import UnavailableError
from darkroom.model import Buffer, MiB
from darkroom.store import (
    ObjectMissingError,
    ObjectTruncatedError,
    StoreFullError,
    StoreRefusedError,
    StoreUnavailableError,
    StoreUrlError,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

_CONNECTIONS = 32
_ATTEMPTS = 5
_READS = 4
_UPLOADS = 4
_WHOLE = 64 * MiB
_PART = 16 * MiB
_MOST_PARTS = 10_000
_BROKEN = (
    exceptions.IncompleteReadError,
    exceptions.ResponseStreamingError,
    exceptions.ReadTimeoutError,
    HTTPError,  # of a TLS connection, which botocore lets through
)
_UNANSWERED = (
    *_BROKEN,
    exceptions.ConnectionError,
    exceptions.HTTPClientError,
    exceptions.CredentialRetrievalError,
    exceptions.MetadataRetrievalError,
    OSError,
)
_FULL = ("QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "XMinioStorageQuotaExceeded")
_PASSING_STATUS = (408, 409, 425, 429)
_PASSING = ("RequestTimeout", "BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch", "NoSuchUpload", "SlowDown")
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


def new_client(endpoint_url: str, credentials: tuple[str, str] | None = None) -> "S3Client":
    """A client for the endpoint, or for AWS if it is empty; None as credentials means the usual ways of boto3.

    Raises StoreUrlError.
    """
    if endpoint_url and (urlsplit(endpoint_url).scheme not in ("http", "https") or not urlsplit(endpoint_url).hostname):
        raise StoreUrlError(
            "the S3 endpoint", "http://host:port or https://host", "", "correct DARKROOM_S3_ENDPOINT_URL"
        )
    identity, secret = credentials or (None, None)
    config = Config(
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        max_pool_connections=_CONNECTIONS,
        connect_timeout=5,
        read_timeout=60,
        s3={"addressing_style": "path" if endpoint_url else "auto"},
        # By itself botocore sends checksums as trailers over https, which not every server knows. Here each body has
        # two: the SHA-256 of its signature, which SeaweedFS for one does not verify, and a header with its CRC-32,
        # which older servers ignore.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    # A session of its own: the default one is not safe to share between threads, and keeps old credentials.
    return boto3.session.Session(aws_access_key_id=identity, aws_secret_access_key=secret).client(
        "s3", endpoint_url=endpoint_url or None, config=config
    )


class S3Store:
    """Objects below a prefix of a bucket."""

    def __init__(self, bucket: str, prefix: str, endpoint_url: str, credentials: tuple[str, str] | None = None) -> None:
        self.bucket = bucket
        self.prefix = f"{prefix}/" if prefix else ""
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self.endpoint_url = endpoint_url
        with self._errors(""):
            self._client = new_client(endpoint_url, credentials)

    def put(self, key: str, parts: Iterable[Buffer], size: int) -> None:
        """One request up to 64 MiB, a multipart upload above; one that breaks off is aborted and leaves nothing."""
        name = self._name(key)
        if size > _WHOLE:
            self._put_large(key, name, parts, size)
            return
        body = b"".join(parts)
        if len(body) != size:
            raise ValueError(f"{len(body)} bytes were given for an object of {size}")
        with self._errors(key):
            self._client.put_object(Bucket=self.bucket, Key=name, Body=body, ChecksumCRC32=_crc32(body))

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """A ranged read; an answer that is cut short, or is not the range, is asked for again."""
        if length == 0:
            self.size(key)
            return b""
        for _ in range(_READS):
            data = self._read(key, offset, length)
            if data is not None:
                return data
        raise StoreUnavailableError(self.url, f"a range of {key}", f"{_READS} answers that are not the whole of it")

    def size(self, key: str) -> int:
        """The object's length, by HEAD."""
        with self._errors(key):
            try:
                return int(self._client.head_object(Bucket=self.bucket, Key=self._name(key))["ContentLength"])
            except ClientError as error:
                # A HEAD has no body that could say whether it is the object or the whole bucket that is missing.
                if _status(error) != 404:
                    raise
                self._client.head_bucket(Bucket=self.bucket)
                raise ObjectMissingError(f"{self.url}/{key}") from None

    def delete(self, key: str) -> None:
        """Remove the object."""
        with self._errors(key):
            self._client.delete_object(Bucket=self.bucket, Key=self._name(key))

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Page through the objects below the prefix."""
        store.folder_of(prefix)
        with self._errors(prefix):
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix + prefix):
                for entry in page.get("Contents", ()):
                    key = entry["Key"][len(self.prefix) :]
                    if store.is_key(key):
                        yield key, entry["Size"]

    def check(self) -> None:
        """Write, read and remove a small object."""
        store.probe(self)

    def sweep(self, older_than: float) -> int:
        """Abort the multipart uploads of killed puts: their parts are in no listing, but they are paid for."""
        removed = 0
        with self._errors(""):
            pages = self._client.get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix):
                for upload in page.get("Uploads", ()):
                    if time.time() - upload["Initiated"].timestamp() > older_than:
                        self._abort({"Bucket": self.bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]})
                        removed += 1
        return removed

    def _put_large(self, key: str, name: str, parts: Iterable[Buffer], size: int) -> None:
        """Upload parts while the next one is collected; memory holds 80 MiB, or two parts where they are larger."""
        with self._errors(key):
            begun = self._client.create_multipart_upload(Bucket=self.bucket, Key=name, ChecksumAlgorithm="CRC32")
        target: Any = {"Bucket": self.bucket, "Key": name, "UploadId": begun["UploadId"]}
        try:
            sent = self._send(key, target, _pieces(parts, size, max(_PART, -(-size // _MOST_PARTS))))
            with self._errors(key):
                self._client.complete_multipart_upload(**target, MultipartUpload={"Parts": sent})
        except BaseException:
            with suppress(BotoCoreError, ClientError):
                self._abort(target)
            raise

    def _send(self, key: str, target: Any, pieces: Iterator[bytearray]) -> "Sequence[CompletedPartTypeDef]":
        def upload(number: int, piece: Any) -> "CompletedPartTypeDef":
            checksum = _crc32(piece)
            with self._errors(key):
                answer = self._client.upload_part(**target, PartNumber=number, Body=piece, ChecksumCRC32=checksum)
            return {"ETag": answer["ETag"], "PartNumber": number, "ChecksumCRC32": checksum}

        sent, under_way = [], deque[Future["CompletedPartTypeDef"]]()
        # Leaving the pool waits for the parts under way: one that ended behind the abort would be kept for ever.
        with ThreadPoolExecutor(_UPLOADS) as pool:
            for number, piece in enumerate(pieces, 1):
                if under_way and len(under_way) * len(piece) >= _WHOLE:
                    sent.append(under_way.popleft().result())
                under_way.append(pool.submit(upload, number, piece))
            sent += [part.result() for part in under_way]
        return sent

    def _abort(self, target: Any) -> None:
        try:
            self._client.abort_multipart_upload(**target)
        except ClientError as error:
            if _status(error) != 404:
                raise

    def _read(self, key: str, offset: int, length: int | None) -> bytes | None:
        """Ask for a range; return None if the answer is not it. Raises ObjectTruncatedError if it cannot be."""
        last = "" if length is None else str(offset + length - 1)
        with self._errors(key):
            try:
                window = f"bytes={offset}-{last}"
                answer = self._client.get_object(Bucket=self.bucket, Key=self._name(key), Range=window)
                data: bytes = answer["Body"].read()
            except _BROKEN:
                return None
            except ClientError as error:
                if _status(error) != 416:
                    raise
                data, size, start = b"", self.size(key), offset
            else:
                found = _RANGE.fullmatch(answer.get("ContentRange", ""))
                if not found:
                    return None
                start, size = map(int, found.groups())
        end = max(size, offset) if length is None else offset + length
        if size < end and length is not None:
            raise ObjectTruncatedError(f"{self.url}/{key}", f"{length} bytes at {offset}", f"{size} in all")
        return data if (start, len(data)) == (offset, end - offset) else None

    def _name(self, key: str) -> str:
        return self.prefix + store.check_key(key)

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            code, status = str(error.response.get("Error", {}).get("Code", "")), _status(error)
            if code == "NoSuchKey":
                raise ObjectMissingError(f"{self.url}/{key}") from None
            kind: type[UnavailableError] = StoreUnavailableError
            if code in _FULL or status == 507:
                kind = StoreFullError
            elif 300 <= status < 500 and status not in _PASSING_STATUS and code not in _PASSING:
                kind = StoreRefusedError
            raise kind(self.url, "", f"{code} for {error.operation_name}") from error
        except (BotoCoreError, HTTPError, OSError) as error:
            kind = StoreUnavailableError if isinstance(error, _UNANSWERED) else StoreRefusedError
            raise kind(self.url, "", str(error)) from error


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _crc32(body: Buffer) -> str:
    return base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()


def _pieces(parts: Iterable[Buffer], size: int, length: int) -> Iterator[bytearray]:
    """Cut parts anew into pieces of `length`, the last shorter; raises ValueError unless they make up `size` bytes."""
    piece, given = bytearray(), 0
    for part in parts:
        view = memoryview(part).cast("B")
        given += len(view)
        if given > size:
            break
        while view:
            taken = view[: length - len(piece)]
            piece += taken
            view = view[len(taken) :]
            if len(piece) == length:
                yield piece
                piece = bytearray()
    if given != size:
        raise ValueError(f"at least {given} bytes were given for an object of {size}")
    if piece:
        yield piece
