"""An object in a bucket: ranged reads of the version that was there at the beginning."""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import SplitResult

from botocore.exceptions import BotoCoreError, ClientError

from darkroom.errors import DarkroomError
from darkroom.rawdisk import SourceChangedError
from darkroom.settings import Settings
from darkroom.sources import Source, SourceUnavailableError, hint_of
from darkroom.sources.local import SourceDeniedError, SourceMissingError
from darkroom.sources.remote import WindowReader
from darkroom.store.s3 import new_client


@contextmanager
def open_object(parts: SplitResult, settings: Settings) -> Iterator[Source]:
    """s3://bucket/key, pinned to its ETag. Raises SourceMissingError, SourceDeniedError, SourceUnavailableError."""
    bucket, key = parts.netloc, parts.path.lstrip("/")
    url = f"s3://{bucket}/{key}"
    client = new_client(settings.s3_endpoint_url)
    try:
        head = client.head_object(Bucket=bucket, Key=key)
    except (ClientError, BotoCoreError) as error:
        raise _named(url, error) from error
    etag, size = head["ETag"], head["ContentLength"]
    identity = f"{url} etag {etag} {size} bytes"

    def fetch(offset: int, length: int) -> bytes:
        window = f"bytes={offset}-{offset + length - 1}"
        try:
            data: bytes = client.get_object(Bucket=bucket, Key=key, Range=window, IfMatch=etag)["Body"].read()
        except (ClientError, BotoCoreError, OSError) as error:
            raise _named(url, error) from error
        if len(data) != length:
            raise SourceChangedError(url, f"{length} bytes at {offset}", f"{len(data)}")
        return data

    def check_unchanged() -> None:
        found = client.head_object(Bucket=bucket, Key=key)["ETag"]
        if found != etag:
            raise SourceChangedError(url, f"etag {etag}", f"etag {found}")

    name = key.rpartition("/")[2]
    yield Source(url, name, identity, WindowReader(size, fetch), check_unchanged, hint=hint_of(name))


def _named(url: str, error: Exception) -> DarkroomError:
    code = error.response["Error"].get("Code", "") if isinstance(error, ClientError) else ""
    if code in ("404", "NoSuchKey", "NoSuchBucket"):
        return SourceMissingError(url)
    if code in ("403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"):
        return SourceDeniedError(url, "", code)
    if code in ("412", "PreconditionFailed"):
        return SourceChangedError(url, "the object that was opened", "another")
    return SourceUnavailableError(url, "", code or type(error).__name__)
