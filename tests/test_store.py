"""One suite for both implementations of the object store."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import tracemalloc
from contextlib import contextmanager

import pytest

from darkroom import store
from darkroom.settings import Settings
from darkroom.store import ObjectMissingError, ObjectTruncatedError, StoreRefusedError, StoreUnavailableError
from darkroom.store.s3 import new_client

SIZES = [0, 1, 511, 4096, (1 << 20) + 1]


def put(target, key, data):
    target.put(key, [data], len(data))


@pytest.mark.parametrize("size", SIZES)
def test_what_was_put_is_got(any_store, size):
    data = os.urandom(size)
    any_store.put("a/b/object", [data[: size // 3], memoryview(data)[size // 3 :]], size)

    assert any_store.get("a/b/object") == data
    assert any_store.size("a/b/object") == size


def test_ranges_are_exact(any_store):
    data = os.urandom(10_000)
    put(any_store, "object", data)

    for offset, length in [(0, 1), (0, 10_000), (9_999, 1), (123, 4567), (5, 0)]:
        assert any_store.get("object", offset, length) == data[offset : offset + length]
    assert any_store.get("object", 9_000) == data[9_000:]


@pytest.mark.parametrize(("offset", "length"), [(0, 11), (5, 6), (10, 1), (100, 5)])
def test_a_range_beyond_the_end_is_never_cut_short(any_store, offset, length):
    put(any_store, "object", b"0123456789")

    with pytest.raises(ObjectTruncatedError):
        any_store.get("object", offset, length)


def test_a_missing_object_is_named(any_store):
    put(any_store, "no/other", b"data")
    for question in (any_store.get, any_store.size):
        with pytest.raises(ObjectMissingError, match="no/such"):
            question("no/such")
    any_store.delete("no/such")


def test_what_only_leads_to_objects_is_no_object(any_store):
    put(any_store, "a/b/object", b"data")

    for key in ("a", "a/b", "a/b/object/x"):
        with pytest.raises(ObjectMissingError):
            any_store.get(key)
        with pytest.raises(ObjectMissingError):
            any_store.size(key)
        any_store.delete(key)
    assert any_store.get("a/b/object") == b"data"


def test_put_replaces_and_delete_removes(any_store):
    put(any_store, "object", b"old and longer")
    put(any_store, "object", b"new")
    assert any_store.get("object") == b"new"

    any_store.delete("object")
    any_store.delete("object")
    with pytest.raises(ObjectMissingError):
        any_store.get("object")


def test_list_finds_all_objects_of_a_prefix(any_store):
    for key in ("b", "a/2", "a/10", "a/1/x", "ab", "a-b"):
        put(any_store, key, key.encode())

    assert dict(any_store.list("")) == {key: len(key) for key in ("b", "a/2", "a/10", "a/1/x", "ab", "a-b")}
    assert sorted(key for key, _ in any_store.list("a/1")) == ["a/1/x", "a/10"]
    assert sorted(key for key, _ in any_store.list("a/")) == ["a/1/x", "a/10", "a/2"]
    assert list(any_store.list("nothing/here")) == []
    assert list(any_store.list("a/2")) == [("a/2", 3)]


@pytest.mark.parametrize("prefix", ["/", "../", "a/../../", "a//"])
def test_a_list_looks_nowhere_else(any_store, home, prefix):
    put(any_store, "a/object", b"data")
    home.mkdir(exist_ok=True)
    (home / "canary").write_bytes(b"secret")

    with pytest.raises(ValueError, match="key"):
        list(any_store.list(prefix))
    assert list(any_store.list("..")) == []


def test_names_that_are_no_keys_are_not_listed(any_store, home):
    put(any_store, "object", b"data")
    if any_store.url.startswith("s3:"):
        bucket, _, prefix = any_store.url.removeprefix("s3://").partition("/")
        new_client(Settings().s3_endpoint_url).put_object(Bucket=bucket, Key=f"{prefix}/not ours", Body=b"")
    else:
        (home / "store" / "not ours").touch()

    assert list(any_store.list("")) == [("object", 4)]


@pytest.mark.parametrize("error", [RuntimeError("no"), FileNotFoundError(2, "no"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("size", [2000, 80 << 20])
def test_a_put_that_breaks_off_leaves_nothing_and_the_cause_comes_out(any_store, error, size):
    def parts():
        yield bytes(size - 1000)
        raise error

    with pytest.raises(type(error)) as caught:
        any_store.put("object", parts(), size)

    assert caught.value is error
    assert list(any_store.list("")) == []
    assert any_store.sweep(older_than=-5) == 0


@pytest.mark.parametrize("size", [2000, 65 << 20])
@pytest.mark.parametrize("wrong", [-1, 1])
def test_a_put_of_another_size_than_said_is_an_error(any_store, size, wrong):
    with pytest.raises(ValueError, match="bytes"):
        any_store.put("object", [bytes(size + wrong)], size)

    assert list(any_store.list("")) == []
    assert any_store.sweep(older_than=-5) == 0


@contextmanager
def memory_growth():
    """Peak of the memory that Python allocates within, in bytes, as the first item of a list."""
    tracemalloc.start()
    found = []
    try:
        yield found
    finally:
        found.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()


def test_a_large_object_is_streamed(any_store):
    part, count = os.urandom(1 << 20), 250
    with memory_growth() as growth:
        any_store.put("large", (bytes(part) for _ in range(count)), count << 20)

    assert growth[0] < 125 << 20
    assert any_store.size("large") == count << 20
    for number in (0, 15, 16, count - 1):
        assert any_store.get("large", (number << 20) + 5, 1000) == part[5:1005]
    assert [key for key, _ in any_store.list("")] == ["large"]


def test_parts_of_any_shape_make_up_a_large_object(any_store):
    whole = os.urandom((66 << 20) + 12345)
    cuts = [0, 0, 1, 5_000_000, 16 << 20, 40_000_000, len(whole)]
    any_store.put("large", (memoryview(whole)[a:b] for a, b in itertools.pairwise(cuts)), len(whole))

    assert any_store.get("large") == whole


def test_concurrent_puts_of_one_key_leave_one_whole_object(any_store):
    bodies = [bytes([number]) * 100_000 for number in range(8)]
    threads = [threading.Thread(target=put, args=(any_store, "object", body)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert any_store.get("object") in bodies


BAD_KEYS = [
    "",
    "/a",
    "a/",
    "a//b",
    "..",
    "../a",
    "a/../b",
    "a/.hidden",
    "a b",
    "a\0b",
    "a\n",
    "ä",
    "x" * 201,
    "x/" * 300,
]


@pytest.mark.parametrize("key", BAD_KEYS)
def test_keys_that_could_lead_elsewhere_are_errors(any_store, key):
    with pytest.raises(ValueError, match="key"):
        any_store.put(key, [b""], 0)
    for use in (any_store.get, any_store.size, any_store.delete):
        with pytest.raises(ValueError, match="key"):
            use(key)


def test_check_says_that_all_is_well(any_store):
    any_store.check()

    assert list(any_store.list("")) == []


@pytest.mark.parametrize("size", [200_000, 100 << 20])
def test_a_killed_writer_leaves_no_object_and_its_rest_is_swept(any_store, home, size):
    code = f"""
import sys
from darkroom import store
from darkroom.settings import Settings
def parts():
    yield bytes({size} // 2)
    print("half", flush=True)
    sys.stdin.read()
store.open_store({any_store.url!r}, Settings()).put("object", parts(), {size})
"""
    put(any_store, "other", b"data")
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"half\n"
        child.send_signal(signal.SIGKILL)

    assert list(any_store.list("")) == [("other", 4)]
    rest = 0 if any_store.url.startswith("s3:") and size < 1 << 20 else 1
    assert any_store.sweep(older_than=3600) == 0
    assert any_store.sweep(older_than=-5) == rest
    assert any_store.sweep(older_than=-5) == 0
    assert list(any_store.list("")) == [("other", 4)]
    if home.exists():
        assert os.listdir(home / "store" / ".tmp") == []


def test_a_store_that_is_down_or_refuses_is_named(bucket, monkeypatch):
    nowhere = store.open_store("s3://no-such-bucket-here", Settings())
    with pytest.raises(StoreRefusedError, match="NoSuchBucket"):
        nowhere.check()
    with pytest.raises(StoreRefusedError, match="404 for HeadBucket"):
        nowhere.size("object")
    with pytest.raises(StoreRefusedError, match="NoSuchBucket"):
        nowhere.get("object")
    with pytest.raises(StoreRefusedError):
        store.open_store(f"s3://{bucket}", Settings(), ("wrong", "wrong")).check()
    monkeypatch.setenv("DARKROOM_S3_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreUnavailableError) as caught:
        store.open_store(f"s3://{bucket}", Settings()).check()
    assert caught.value.retryable


def test_a_store_without_credentials_is_refused(bucket, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    with pytest.raises(StoreRefusedError, match="credentials"):
        store.open_store(f"s3://{bucket}", Settings()).check()


@pytest.mark.parametrize(
    "url", ["ftp://host/x", "s3://", "gs://bucket", "s3://key:secret@bucket", "s3://bucket/a/../b", "s3:///prefix"]
)
def test_unknown_stores_are_refused(url):
    with pytest.raises(store.StoreUrlError) as caught:
        store.open_store(url, Settings())

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("endpoint", ["localhost:9000", "http://", "user:secret@host"])
def test_an_endpoint_that_is_none_is_refused(endpoint):
    with pytest.raises(store.StoreUrlError, match="DARKROOM_S3_ENDPOINT_URL") as caught:
        store.open_store("s3://bucket", Settings(s3_endpoint_url=endpoint))

    assert "secret" not in str(caught.value)
