"""One suite for both implementations of the object store."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from darkroom import store
from darkroom.settings import Settings
from darkroom.store import ObjectMissingError, ObjectTruncatedError, StoreRefusedError, StoreUnavailableError

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
    for question in (any_store.get, any_store.size):
        with pytest.raises(ObjectMissingError, match="no/such"):
            question("no/such")
    any_store.delete("no/such")


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


def test_a_put_that_breaks_off_leaves_nothing(any_store):
    def parts():
        yield b"x" * 1000
        raise RuntimeError("the producer failed")

    with pytest.raises(RuntimeError):
        any_store.put("object", parts(), 2000)
    with pytest.raises(ValueError, match="bytes"):
        any_store.put("object", [b"short"], 2000)

    assert list(any_store.list("")) == []


def test_a_large_object_is_streamed(any_store):
    part = os.urandom(1 << 20)
    any_store.put("large", (part for _ in range(70)), 70 << 20)

    assert any_store.size("large") == 70 << 20
    assert any_store.get("large", (35 << 20) + 5, 1000) == part[5:1005]
    with pytest.raises(ValueError, match="bytes"):
        any_store.put("larger", (part for _ in range(70)), 71 << 20)
    assert [key for key, _ in any_store.list("")] == ["large"]


def test_concurrent_puts_of_one_key_leave_one_whole_object(any_store):
    bodies = [bytes([number]) * 100_000 for number in range(8)]
    threads = [threading.Thread(target=put, args=(any_store, "object", body)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert any_store.get("object") in bodies


@pytest.mark.parametrize("key", ["", "/a", "a//b", "../a", "a/../b", "a/.hidden", "a b", "a\0b", "x" * 600])
def test_keys_that_could_lead_elsewhere_are_errors(any_store, key):
    with pytest.raises(ValueError, match="key"):
        any_store.put(key, [b""], 0)


def test_check_says_that_all_is_well(any_store):
    any_store.check()

    assert list(any_store.list("")) == []


def test_a_killed_writer_leaves_no_object_and_its_file_is_swept(home):
    code = f"""
import os, sys
from darkroom import store
from darkroom.settings import Settings
def parts():
    yield b"x" * 100000
    print("half", flush=True)
    sys.stdin.read()
store.open_store({str(home / "s")!r}, Settings()).put("object", parts(), 200000)
"""
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"half\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdin.close()
    child.stdout.close()
    target = store.open_store(str(home / "s"), Settings())

    assert list(target.list("")) == []
    assert target.sweep(older_than=3600) == 0
    assert target.sweep(older_than=-1) == 1
    assert os.listdir(home / "s" / ".tmp") == []


def test_links_in_a_directory_store_are_not_followed(home, tmp_path):
    canary = tmp_path / "canary"
    canary.write_bytes(b"secret")
    target = store.open_store(str(home / "s"), Settings())
    put(target, "object", b"data")
    (home / "s" / "link").symlink_to(canary)

    assert [key for key, _ in target.list("")] == ["object"]
    with pytest.raises(store.UnavailableError):
        target.get("link")


def test_a_store_that_is_down_or_refuses_is_named(bucket, monkeypatch):
    with pytest.raises(StoreRefusedError, match="NoSuchBucket"):
        store.open_store("s3://no-such-bucket-here", Settings()).check()
    with pytest.raises(StoreRefusedError):
        store.open_store(f"s3://{bucket}", Settings(), ("wrong", "wrong")).check()
    monkeypatch.setenv("DARKROOM_S3_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreUnavailableError) as caught:
        store.open_store(f"s3://{bucket}", Settings()).check()
    assert caught.value.retryable


@pytest.mark.parametrize("url", ["ftp://host/x", "s3://", "gs://bucket"])
def test_unknown_stores_are_refused(url):
    with pytest.raises(store.StoreUrlError):
        store.open_store(url, Settings())
