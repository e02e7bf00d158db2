"""The S3 store between a scripted faulty proxy and a real server, and in front of a server that is killed."""

import itertools
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from darkroom import store
from darkroom.settings import Settings
from darkroom.store import (
    ObjectTruncatedError,
    StoreFullError,
    StoreRefusedError,
    StoreUnavailableError,
    s3,
)
from tests import faults, servers

DATA = os.urandom(50_001)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """botocore waits up to 20 s between attempts; how long it waits is not what these tests are about."""
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda _: None))


_numbers = itertools.count()


@pytest.fixture
def faulty(shared_bucket, s3_server, s3_environment):
    """A proxy, and a store behind it that holds `object`."""
    with faults.proxy(s3_server.url) as proxy:
        url = f"s3://{shared_bucket}/faulty/{next(_numbers)}"
        target = store.open_store(url, Settings(s3_endpoint_url=proxy.url))
        target.put("object", [DATA], len(DATA))
        proxy.seen.clear()
        yield proxy, target


@pytest.mark.parametrize("letter", "RTLICS5P.")
@pytest.mark.parametrize(("offset", "length"), [(0, None), (0, 50_001), (1, 40_000), (49_000, None)])
def test_a_get_outlives_one_fault_and_is_exact(faulty, letter, offset, length):
    proxy, target = faulty
    proxy.script = letter

    assert target.get("object", offset, length) == DATA[offset : None if length is None else offset + length]
    assert [seen for _, seen in proxy.seen][:1] == [letter]
    assert len(proxy.seen) == (1 if letter in "P." else 2)


def test_a_get_outlives_several_faults(faulty):
    proxy, target = faulty
    proxy.script = "SSRS5CTSL"

    assert target.get("object", 7, 1000) == DATA[7:1007]
    assert len(proxy.seen) == 10


@pytest.mark.parametrize("letter", "RTLICS5")
@pytest.mark.parametrize("length", [None, 40_000])
def test_a_get_that_never_succeeds_gives_up_with_a_retryable_error(faulty, letter, length):
    proxy, target = faulty
    proxy.script = letter * 1000

    with pytest.raises(StoreUnavailableError) as caught:
        target.get("object", 1, length)

    assert caught.value.retryable
    assert caught.value.exit_code == 6
    assert 4 <= len(proxy.seen) <= 5


def test_an_object_that_is_too_short_is_damage_however_bad_the_line(faulty):
    proxy, target = faulty
    proxy.script = "RSLT"

    with pytest.raises(ObjectTruncatedError, match="50001 in all"):
        target.get("object", 50_000, 2)


@pytest.mark.parametrize("method", ["put", "size", "delete", "list"])
@pytest.mark.parametrize("letter", "CS5")
def test_every_call_outlives_a_fault(faulty, method, letter):
    proxy, target = faulty
    calls = {
        "put": lambda: target.put("new", [DATA], len(DATA)),
        "size": lambda: target.size("object"),
        "delete": lambda: target.delete("object"),
        "list": lambda: dict(target.list("")),
    }
    expected = {"size": len(DATA), "list": {"object": len(DATA)}}
    proxy.script = letter * 2

    assert calls[method]() == expected.get(method)
    assert [seen for _, seen in proxy.seen] == [letter, letter, "."]
    if method == "put":
        assert target.get("new") == DATA


@pytest.mark.parametrize(("letter", "error"), [
    ("S", StoreUnavailableError), ("5", StoreUnavailableError), ("C", StoreUnavailableError),
    ("Q", StoreFullError), ("F", StoreFullError), ("D", StoreRefusedError), ("X", StoreRefusedError),
])  # fmt: skip
@pytest.mark.parametrize("size", [1000, 70 << 20])
def test_a_put_that_fails_says_why_and_leaves_nothing(faulty, letter, error, size):
    proxy, target = faulty
    proxy.script = "." * (size > 1000) + letter * 20 + "."

    with pytest.raises(error) as caught:
        target.put("new", [bytes(size)], size)
    proxy.script = ""

    assert caught.value.retryable == (error is StoreUnavailableError)
    assert [key for key, _ in target.list("")] == ["object"]
    assert target.sweep(older_than=-5) in (0, 1)
    assert target.sweep(older_than=-5) == 0


@pytest.mark.parametrize("size", [50_000, 70 << 20])
def test_a_put_that_is_changed_on_the_way_is_refused_by_the_server(faulty, size):
    proxy, target = faulty
    proxy.script = "." * (size > 50_000) + "U"

    with pytest.raises(StoreUnavailableError, match="BadDigest") as caught:
        target.put("new", [bytes(size)], size)

    assert caught.value.retryable
    assert [key for key, _ in target.list("")] == ["object"]


def test_a_part_that_fails_is_sent_again_and_the_object_is_whole(faulty):
    proxy, target = faulty
    parts = [os.urandom(1 << 20) for _ in range(8)]
    proxy.script = "S.C5.RS"
    target.put("large", (parts[number % 8] for number in range(72)), 72 << 20)

    assert target.size("large") == 72 << 20
    assert all(target.get("large", number << 20, 1 << 20) == parts[number % 8] for number in range(72))
    assert target.sweep(older_than=-5) == 0


def test_a_body_that_is_changed_on_the_way_keeps_its_length(faulty):
    """The store does not promise more: chunks and manifests carry their own authentication."""
    proxy, target = faulty
    proxy.script = "W"

    found = target.get("object", 0, 1000)
    assert len(found) == 1000
    assert found != DATA[:1000]


def test_check_finds_a_store_that_gives_back_other_bytes(faulty):
    proxy, target = faulty
    proxy.script = ".W"

    with pytest.raises(StoreUnavailableError, match="bytes that were put"):
        target.check()
    assert [key for key, _ in target.list("")] == ["object"]


def test_a_server_that_is_killed_and_started_again_never_gives_wrong_bytes(tmp_path, home, monkeypatch):
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda _: time.sleep(0.05)))
    bodies = {f"object/{number}": os.urandom(300_000) for number in range(8)}
    acknowledged, outcomes, stop = {}, [], threading.Event()

    def work(number: int) -> None:
        """Put and get until told to stop; every outcome is the right bytes or a retryable error."""
        round = 0
        while not stop.is_set():
            key = f"new/{number}/{round}"
            round += 1
            body = bodies[f"object/{round % 8}"][: 1000 + round]
            try:
                target.put(key, [body], len(body))
                acknowledged[key] = body
                assert target.get(f"object/{round % 8}", 100, 200_000) == bodies[f"object/{round % 8}"][100:200_100]
                outcomes.append("well")
            except StoreUnavailableError:
                outcomes.append("unavailable")

    with servers.s3_server(tmp_path) as server:
        s3.new_client(server.url, servers.CREDENTIALS).create_bucket(Bucket="bucket")
        target = store.open_store("s3://bucket", Settings(s3_endpoint_url=server.url), servers.CREDENTIALS)
        for key, body in bodies.items():
            target.put(key, [body], len(body))
        with ThreadPoolExecutor(4) as pool:
            workers = [pool.submit(work, number) for number in range(4)]
            try:
                for _ in range(2):
                    wait_for_more(outcomes, 20)
                    server.kill()
                    wait_for_more(outcomes, 5)  # four can have been answered before
                    server.start()
                wait_for_more(outcomes, 20)
            finally:
                stop.set()
            for worker in workers:
                worker.result()

        assert set(outcomes) == {"well", "unavailable"}
        assert all(target.get(key) == body for key, body in (acknowledged | bodies).items())


def wait_for_more(outcomes: list, count: int) -> None:
    wanted, deadline = len(outcomes) + count, time.monotonic() + 60
    while len(outcomes) < wanted:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_scripted_store_fails_where_it_is_told_to(home):
    real = store.open_store(str(home / "s"), Settings())
    target = faults.ScriptedStore(real, "OEF", then="E", on=("put",))

    target.put("a", [b"x"], 1)
    with pytest.raises(StoreUnavailableError):
        target.put("b", [b"x"], 1)
    with pytest.raises(StoreFullError):
        target.put("c", [b"x"], 1)
    with pytest.raises(StoreUnavailableError):
        target.put("d", [b"x"], 1)
    assert list(target.list("")) == [("a", 1)]
    assert target.get("a") == b"x"
    assert target.calls == [("put", key) for key in "abcd"]
