"""An object in a bucket: ranged reads of the version that was there at the beginning."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
)

from darkroom.errors import DarkroomError
from darkroom.rawdisk import SourceChangedError
from darkroom.settings import Settings
from darkroom.sources import (
    Source,
    SourceDeniedError,
    SourceMissingError,
    SourceUnavailableError,
    SourceUrlError,
    hint_of,
)
from darkroom.sources.remote import WindowReader, retried
from darkroom.store.s3 import new_client


@contextmanager
def open_object(url: str, settings: Settings) -> Iterator[Source]:
    """s3://bucket/key, pinned to its ETag and version.

    Raises SourceMissingError, SourceDeniedError, SourceUnavailableError, SourceUrlError.
    """
    bucket, _, key = url.removeprefix("s3://").partition("/")
    if not bucket or not key:
        raise SourceUrlError(url, "s3://bucket/key", "no bucket or no key")
    with _errors(url):
        client = new_client(settings.s3_endpoint_url)
        head = client.head_object(Bucket=bucket, Key=key)
    etag, size, pinned = head["ETag"], head["ContentLength"], _version(head)

    def check(answer: Any) -> None:
        # Not every server heeds If-Match, so that its answer is compared too.
        if _version(answer) != pinned:
            raise SourceChangedError(url, pinned, _version(answer))

    def fetch(offset: int, length: int) -> bytes:
        with _errors(url):
            window = f"bytes={offset}-{offset + length - 1}"
            answer = client.get_object(Bucket=bucket, Key=key, Range=window, IfMatch=etag)
            check(answer)
            if answer["ContentLength"] != length:  # a server without ranges would send all of it
                raise SourceChangedError(url, f"{length} bytes at {offset}", f"{answer['ContentLength']}")
            return answer["Body"].read()

    def check_unchanged() -> None:
        def ask() -> None:
            with _errors(url):
                check(client.head_object(Bucket=bucket, Key=key))

        retried(ask)

    name = key.rpartition("/")[2]
    reader = WindowReader(url, size, fetch)
    try:
        yield Source(url, name, f"{url} {pinned} {size} bytes", reader, check_unchanged, hint=hint_of(name))
    finally:
        reader.close()
        client.close()


def _version(answer: Any) -> str:
    """ETag and, in a bucket that keeps versions, the version: an ETag alone may be an MD5, which can be forged."""
    return f"etag {answer['ETag']} version {answer.get('VersionId', 'null')}"


@contextmanager
def _errors(url: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        raise _named(url, error) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise SourceDeniedError(url, "credentials", str(error), "give them in one of boto3's usual ways") from error
    except (ParamValidationError, ValueError) as error:
        raise SourceUrlError(url, "", str(error)) from error
    except (BotoCoreError, OSError) as error:
        raise SourceUnavailableError(url, "", type(error).__name__) from error


def _named(url: str, error: ClientError) -> DarkroomError:
    code = error.response.get("Error", {}).get("Code", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if status == 404:
        return SourceMissingError(url)
    if status in (412, 416):  # another ETag, or shorter than it was
        return SourceChangedError(url, "the object that was opened", "another")
    if 400 <= status < 500 and status not in (408, 429) and code not in ("SlowDown", "RequestTimeout"):
        return SourceDeniedError(url, "", code)
    return SourceUnavailableError(url, "", code or f"status {status}")
