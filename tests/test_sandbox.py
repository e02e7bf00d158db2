"""What a confined program can do, and that it dies with its parent."""

import os
import signal
import subprocess
import sys
import time

import pytest

from darkroom import sandbox


def confined(script, *, timeout=20, **options):
    """Run a shell script confined to its end: the exit code, what it printed, and what it said."""
    words = ["bash", "-c", script] if isinstance(script, str) else script
    with sandbox.running(words, stdout=subprocess.PIPE, file_size=1 << 20, **options) as running:
        printed = running.process.stdout.read().decode()
        return running.process.wait(timeout), printed, running.words()


def assert_gone(command):
    deadline = time.monotonic() + 10
    while subprocess.run(["pgrep", "-f", command], capture_output=True, check=False).returncode == 0:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_it_sees_neither_files_nor_network_nor_processes_nor_environment(tmp_path, monkeypatch):
    canary = tmp_path / "canary"
    canary.write_text("secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    for script in (
        f"cat {canary}",
        "cat /etc/passwd /root/.bashrc",
        f"ls {tmp_path}",
        "echo > /dev/tcp/127.0.0.1/22",
        f"kill -0 {os.getpid()}",
        'test -n "$AWS_SECRET_ACCESS_KEY"',
        "echo x > /usr/x",
        "mount -t tmpfs x /mnt",
        "chroot / true",
    ):
        code, printed, words = confined(script)
        assert code != 0, script
        assert "secret" not in printed + words
    assert int(confined("ls /proc | grep -c '^[0-9]'")[1]) < 10


def test_it_reads_what_is_bound_and_writes_where_it_may(tmp_path):
    there, out = tmp_path / "there", tmp_path / "out"
    there.mkdir()
    out.mkdir()
    (there / "file").write_text("content")

    assert confined(f"cat {there}/file", read=[there])[1] == "content"
    assert confined(f"echo x > {there}/file", read=[there])[0] != 0
    assert confined(f"echo x > {out}/file", write=[out])[0] == 0
    assert (out / "file").read_text() == "x\n"


def test_it_reads_a_descriptor_that_it_is_given(tmp_path):
    (tmp_path / "file").write_text("content")
    os.chmod(tmp_path / "file", 0o600)
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        assert sandbox.can_reopen(fd)
        assert confined(f"cat /proc/self/fd/{fd}", descriptors=[fd])[1] == "content"
    finally:
        os.close(fd)


def test_its_memory_and_files_are_bounded(tmp_path):
    assert "MemoryError" in confined(["python3", "-c", "x = bytearray(6 << 30)"])[2]
    assert confined(f"head -c 2M /dev/zero > {tmp_path}/file", write=[tmp_path])[0] != 0
    assert (tmp_path / "file").stat().st_size <= 1 << 20


def test_it_is_killed_when_the_block_ends():
    with sandbox.running(["sleep", "986"], file_size=0) as running:
        assert running.process.poll() is None
    assert_gone("sleep 986")


def test_it_dies_when_its_parent_is_killed():
    code = (
        "import sys\nfrom darkroom import sandbox\n"
        "with sandbox.running(['sleep', '987'], file_size=0):\n    print('on', flush=True)\n    sys.stdin.read()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout.readline() == b"on\n"
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdin.close()
    parent.stdout.close()

    assert_gone("sleep 987")


def test_without_bubblewrap_nothing_is_parsed(monkeypatch):
    monkeypatch.setattr(sandbox.shutil, "which", lambda program: None)
    with pytest.raises(sandbox.SandboxMissingError, match="make setup"):
        sandbox.command(["true"], file_size=0)


def test_it_works_for_an_ordinary_user_too():
    command = sandbox.command(["id", "-u"], file_size=0)
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    done = subprocess.Popen([*user, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/")
    printed = done.stdout.read()
    done.stdin.close()
    done.stdout.close()

    assert (done.wait(20), printed) == (0, b"65534\n" if user else f"{os.geteuid()}\n".encode())
