"""What a confined program can do, and that it dies with its parent."""

import os
import signal
import subprocess
import sys
import time

import pytest

from darkroom import sandbox


def confined(script, **options):
    return sandbox.run(["bash", "-c", script], timeout=20, **options)


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
        done = confined(script)
        assert done.returncode != 0, script
        assert "secret" not in done.stdout + done.stderr
    assert confined("ls /proc | grep -c '^[0-9]'").stdout.strip() in ("2", "3", "4", "5")


def test_it_reads_what_is_bound_and_writes_where_it_may(tmp_path):
    there, out = tmp_path / "there", tmp_path / "out"
    there.mkdir()
    out.mkdir()
    (there / "file").write_text("content")

    assert confined(f"cat {there}/file", read=[there]).stdout == "content"
    assert confined(f"echo x > {there}/file", read=[there]).returncode != 0
    assert confined(f"echo x > {out}/file", write=[out]).returncode == 0
    assert (out / "file").read_text() == "x\n"


def test_it_reads_a_descriptor_that_it_is_given(tmp_path):
    (tmp_path / "file").write_text("content")
    os.chmod(tmp_path / "file", 0o600)
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        assert confined(f"cat /proc/self/fd/{fd}", descriptors=[fd]).stdout == "content"
    finally:
        os.close(fd)


def test_its_memory_is_bounded():
    done = sandbox.run(["python3", "-c", "x = bytearray(6 << 30)"], timeout=20)

    assert "MemoryError" in done.stderr


def test_a_program_that_does_not_end_is_ended():
    started = time.monotonic()
    with pytest.raises(sandbox.ConfinedError):
        sandbox.run(["sleep", "1000"], timeout=0.3)
    assert time.monotonic() - started < 10
    assert subprocess.run(["pgrep", "-f", "sleep 1000"], capture_output=True, check=False).returncode == 1


def test_it_dies_when_its_parent_is_killed():
    code = (
        "import sys\nfrom darkroom import sandbox\n"
        "with sandbox.running(['sleep', '987']):\n    print('on', flush=True)\n    sys.stdin.read()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout.readline() == b"on\n"
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdin.close()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while (left := subprocess.run(["pgrep", "-f", "sleep 987"], check=False, capture_output=True).returncode) == 0:
        assert time.monotonic() < deadline
        time.sleep(0.02)

    assert left == 1


def test_without_bubblewrap_nothing_is_parsed(monkeypatch):
    monkeypatch.setattr(sandbox.shutil, "which", lambda program: None)
    with pytest.raises(sandbox.SandboxMissingError, match="make setup"):
        sandbox.run(["true"], timeout=1)


def test_it_works_for_an_ordinary_user_too(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("expected: this run is an ordinary user's already")
    argv = sandbox._isolation()
    assert "--unshare-user" not in argv
    command = [word for word in sandbox.command(["id", "-u"]) if word not in ("--cap-add", "CAP_DAC_READ_SEARCH")]
    at = command.index("bwrap") + 1
    command[command.index("-c") + 2] = str(os.getpid())
    user = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        *command[:at],
        "--unshare-user",
        *command[at:],
    ]
    done = subprocess.run(user, capture_output=True, text=True, check=False, cwd="/")

    assert done.returncode == 0, done.stderr
