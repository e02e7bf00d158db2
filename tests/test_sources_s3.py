import hashlib
import random
import subprocess

import boto3
import pytest

from darkroom import sources
from darkroom.errors import DarkroomError
from darkroom.model import MiB
from darkroom.settings import Settings
from darkroom.sources import remote
from darkroom.store import s3 as store_s3
from tests import webserver
from tests.webserver import Site

DATA = random.Random(11).randbytes(9 * MiB + 321)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(remote, "_PAUSES", (0, 0, 0))
    monkeypatch.setattr(store_s3, "_ATTEMPTS", 1)


@pytest.fixture
def client(bucket):
    return boto3.client("s3", endpoint_url=Settings().s3_endpoint_url)


@pytest.fixture
def put(bucket, client):
    def put(key, data):
        client.put_object(Bucket=bucket, Key=key, Body=data)
        return f"s3://{bucket}/{key}"

    return put


def refused(url, spool, settings=None):
    with pytest.raises(DarkroomError) as caught, sources.open_source(url, settings or Settings(), spool) as source:
        source.reader.read(0, source.reader.size)
    return caught.value


def test_an_object_is_read_by_ranges(put, tmp_path):
    url = put("images/disk.qcow2", DATA)

    with sources.open_source(url, Settings(), tmp_path) as source:
        assert source.reader.read(5 * MiB, 10) == DATA[5 * MiB : 5 * MiB + 10]
        assert source.reader.read(len(DATA) - 1, 1) == DATA[-1:]
        assert source.reader.read(0, len(DATA)) == DATA
        assert (source.url, source.name, source.hint, source.fd) == (url, "disk.qcow2", "qcow2", None)
        source.check_unchanged()
    assert sources.identify(url, Settings()) == (url, source.identity)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["a b.raw", "a#b.raw", "a?b=c.raw", "a%20b.raw", "ü.raw", "a+b.raw", "x/y/z.raw"])
def test_a_key_is_taken_literally(put, tmp_path, key):
    url = put(key, key.encode())

    with sources.open_source(url, Settings(), tmp_path) as source:
        assert source.reader.read(0, source.reader.size) == key.encode()


def test_an_object_of_several_parts_is_pinned_by_its_etag(bucket, client, tmp_path):
    upload = client.create_multipart_upload(Bucket=bucket, Key="disk.raw")["UploadId"]
    target = {"Bucket": bucket, "Key": "disk.raw", "UploadId": upload}
    parts = [
        {"PartNumber": number, "ETag": client.upload_part(**target, PartNumber=number, Body=body)["ETag"]}
        for number, body in ((1, DATA[: 5 * MiB]), (2, DATA[5 * MiB :]))
    ]
    client.complete_multipart_upload(**target, MultipartUpload={"Parts": parts})

    with sources.open_source(f"s3://{bucket}/disk.raw", Settings(), tmp_path) as source:
        assert source.reader.read(0, len(DATA)) == DATA
        assert client.head_object(Bucket=bucket, Key="disk.raw")["ETag"] in source.identity


def test_an_object_replaced_between_reads_is_refused(put, tmp_path):
    url = put("disk.raw", DATA)

    with sources.open_source(url, Settings(), tmp_path) as source:
        assert source.reader.read(0, 10) == DATA[:10]
        put("disk.raw", DATA[::-1])
        with pytest.raises(sources.SourceChangedError):
            source.reader.read(5 * MiB, 10)
        with pytest.raises(sources.SourceChangedError):
            source.check_unchanged()
    assert sources.identify(url, Settings())[1] != source.identity


def test_an_object_replaced_by_a_shorter_or_no_object_is_refused(bucket, client, put, tmp_path):
    url = put("disk.raw", DATA)

    with sources.open_source(url, Settings(), tmp_path) as source:
        source.reader.read(0, 10)
        put("disk.raw", b"short")
        with pytest.raises(sources.SourceChangedError):
            source.reader.read(5 * MiB, 10)
        client.delete_object(Bucket=bucket, Key="disk.raw")
        with pytest.raises(sources.SourceMissingError):
            source.reader.read(5 * MiB, 10)
        with pytest.raises(sources.SourceMissingError):
            source.check_unchanged()


def test_in_a_bucket_with_versions_the_same_bytes_put_again_are_another_version(bucket, client, put, tmp_path):
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    url = put("disk.raw", DATA)
    version = client.head_object(Bucket=bucket, Key="disk.raw")["VersionId"]

    with sources.open_source(url, Settings(), tmp_path) as source:
        assert version in source.identity
        put("disk.raw", DATA)
        with pytest.raises(sources.SourceChangedError):
            source.reader.read(5 * MiB, 10)


def test_a_compressed_object_goes_through_the_spool(put, tmp_path):
    packed = subprocess.run(["xz", "-0", "-c"], input=DATA, capture_output=True, check=True).stdout
    url = put("disk.raw.xz", packed)

    with sources.open_source(url, Settings(), tmp_path) as source:
        assert source.reader.read(0, len(DATA)) == DATA
        sources.verify_digest(source, f"sha256:{hashlib.sha256(packed).hexdigest()}", lambda *_: None)


def test_what_is_not_there_is_missing(bucket, tmp_path):
    for url in (f"s3://{bucket}/none", "s3://no-such-bucket-here/none"):
        error = refused(url, tmp_path)
        assert (error.code, error.exit_code) == ("source-not-found", 4)


def test_wrong_credentials_are_refused_and_not_shown(put, tmp_path, monkeypatch):
    url = put("disk.raw", DATA)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")

    error = refused(url, tmp_path)
    assert (error.code, error.exit_code) == ("source-denied", 3)
    assert "hunter2" not in str(error)


def test_no_credentials_are_refused(put, tmp_path, monkeypatch):
    url = put("disk.raw", DATA)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")

    assert refused(url, tmp_path).code == "source-denied"


def test_an_impossible_bucket_name_is_refused(bucket, tmp_path):
    assert refused("s3://not a bucket/x", tmp_path).code == "source-url"


@pytest.fixture
def faulty(monkeypatch):
    """A server that speaks enough of S3 to be read from, and misbehaves by a script."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with webserver.serve(Site(DATA)) as site:
        yield site


def settings_of(site):
    return Settings(s3_endpoint_url=site.url)


@pytest.mark.parametrize("script", ["OR", "OT", "O5", "OH", "ORT5O"])
def test_a_read_that_breaks_off_is_tried_again(faulty, tmp_path, script):
    faulty.script = script

    with sources.open_source("s3://bucket/disk.raw", settings_of(faulty), tmp_path) as source:
        assert source.reader.read(0, len(DATA)) == DATA


@pytest.mark.parametrize("fault", "RT5H")
def test_a_server_that_stays_broken_is_given_up(faulty, tmp_path, fault):
    faulty.script = "O" + fault * 60

    error = refused("s3://bucket/disk.raw", tmp_path, settings_of(faulty))
    assert (error.code, error.exit_code, error.retryable) == ("source-unavailable", 6, True)
    assert len(faulty.requests) < 30


def test_a_server_that_is_not_there_is_unavailable(faulty, tmp_path):
    settings = Settings(s3_endpoint_url="http://127.0.0.1:9")

    assert refused("s3://bucket/disk.raw", tmp_path, settings).exit_code == 6


def test_another_object_is_refused_when_the_server_ignores_the_condition(faulty, tmp_path):
    faulty.heeds_if_match = False

    with sources.open_source("s3://bucket/disk.raw", settings_of(faulty), tmp_path) as source:
        source.reader.read(0, 10)
        faulty.data, faulty.etag = DATA[::-1], '"two"'
        with pytest.raises(sources.SourceChangedError):
            source.reader.read(5 * MiB, 10)


def test_the_server_is_asked_for_the_version_that_was_pinned(faulty, tmp_path):
    with sources.open_source("s3://bucket/disk.raw", settings_of(faulty), tmp_path) as source:
        source.reader.read(0, len(DATA))
    assert faulty.conditions == ["", '"one"', '"one"', '"one"']


def test_a_server_that_ignores_ranges_is_refused_before_it_sends_all(faulty, tmp_path):
    faulty.ranges, faulty.data = False, bytes(64 * MiB)  # more than the buffers of a connection hold

    assert refused("s3://bucket/disk.raw", tmp_path, settings_of(faulty)).code == "source-changed"
    assert faulty.whole_bodies == 0
