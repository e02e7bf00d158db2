"""What only a directory can do, or can have done to it."""

import os
import subprocess
import sys

import pytest

from darkroom import store
from darkroom.settings import Settings
from darkroom.store import ObjectMissingError, StoreRefusedError, StoreUnavailableError


def put(target, key, data):
    target.put(key, [data], len(data))


def test_an_object_is_durable_before_it_is_visible_and_its_name_before_put_returns(home, monkeypatch):
    target = store.open_store(str(home / "s"), Settings())
    put(target, "a/first", b"data")
    calls = []

    def recorded(name, real):
        def call(*arguments, **options):
            calls.append((name, os.readlink(f"/proc/self/fd/{arguments[0]}") if name != "rename" else ""))
            return real(*arguments, **options)

        return call

    for name in ("fdatasync", "fsync", "rename"):
        monkeypatch.setattr(os, name, recorded(name, getattr(os, name)))
    put(target, "a/object", b"data")

    assert [name for name, _ in calls] == ["fdatasync", "rename", "fsync"]
    assert calls[0][1].startswith(f"{home}/s/.tmp/")
    assert calls[2][1] == f"{home}/s/a"


def test_links_in_a_directory_store_are_not_followed(home, tmp_path):
    (tmp_path / "canary").write_bytes(b"secret")
    target = store.open_store(str(home / "s"), Settings())
    put(target, "object", b"data")
    (home / "s" / "link").symlink_to(tmp_path / "canary")
    (home / "s" / "folder").symlink_to(tmp_path)

    assert [key for key, _ in target.list("")] == ["object"]
    for question in (target.get, target.size):
        for key in ("link", "folder/canary"):
            with pytest.raises(StoreRefusedError, match="link"):
                question(key)
    for key in ("folder/new", "folder/canary"):
        with pytest.raises(StoreRefusedError, match="link"):
            put(target, key, b"overwritten")
    with pytest.raises(StoreRefusedError, match="link"):
        target.delete("folder/canary")
    put(target, "link", b"an object of its own")

    assert [path.name for path in tmp_path.iterdir()] == ["canary"]
    assert (tmp_path / "canary").read_bytes() == b"secret"


def test_what_is_no_file_holds_nobody_up(home):
    target = store.open_store(str(home / "s"), Settings())
    put(target, "object", b"data")
    os.mkfifo(home / "s" / "pipe")

    with pytest.raises(ObjectMissingError):
        target.get("pipe")
    assert [key for key, _ in target.list("")] == ["object"]


def test_a_folder_that_is_gone_is_not_taken_for_damage(home):
    target = store.open_store(str(home / "s"), Settings())

    with pytest.raises(StoreUnavailableError, match="folder"):
        target.get("object")
    assert list(target.list("")) == []
    assert target.sweep(0) == 0


def test_objects_are_for_their_owner_only(home):
    put(store.open_store(str(home / "s"), Settings()), "a/object", b"data")

    for path in (home / "s", home / "s/a", home / "s/a/object"):
        assert path.stat().st_mode & 0o077 == 0


def test_a_full_directory_says_so(home):
    """The file system is one of 1 MiB, in a mount namespace of its own."""
    code = """
import sys
from darkroom import store
from darkroom.settings import Settings
target = store.open_store(sys.argv[1], Settings())
target.put("small", [b"data"], 4)
try:
    target.put("large", [bytes(1 << 20)] * 2, 2 << 20)
except store.StoreFullError as error:
    assert not error.retryable
    print(error.exit_code, list(target.list("")), target.sweep(-5))
"""
    mount = ["bwrap", "--dev-bind", "/", "/", "--size", str(1 << 20), "--tmpfs", "/mnt"]
    command = [*mount, "--", sys.executable, "-c", code, "/mnt/store"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.stdout == "6 [('small', 4)] 0\n", done.stderr


def test_a_directory_without_rights_says_so(home):
    """Another account tries, for root may do all."""
    (home / "s").mkdir(parents=True)
    code = f"""
import os, sys
from darkroom import store
from darkroom.settings import Settings
target = store.open_store({str(home / "s")!r}, Settings())
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    target.check()
except store.StoreRefusedError as error:
    print(error.retryable, error)
"""
    (home / "s").chmod(0o500)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.stdout.startswith("False store-refused"), done.stderr
    assert "Permission denied" in done.stdout
