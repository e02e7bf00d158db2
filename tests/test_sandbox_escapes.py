"""Ways out of confinement that work against weaker settings, and programs that must not outlive us."""

import ctypes
import os
import subprocess
import sys
import textwrap
import time

import pytest

from darkroom import sandbox
from darkroom.model import KiB, MiB

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root has what is to be taken away")


def confined(*arguments, **options):
    """What a program printed and said, confined, to its end."""
    with sandbox.running(arguments, stdout=subprocess.PIPE, **{"file_size": MiB, **options}) as running:
        return running.process.stdout.read().decode(), running.words()


def python(code, *arguments, **options):
    return confined("python3", "-c", textwrap.dedent(code), *map(str, arguments), **options)


def gone(marker):
    """Wait until no process has the marker in its command line."""
    deadline = time.monotonic() + 10
    while subprocess.run(["pgrep", "-f", "--", marker], capture_output=True, check=False).returncode == 0:
        if time.monotonic() > deadline:
            subprocess.run(["pkill", "-KILL", "-f", "--", marker], check=False)
            return False
        time.sleep(0.01)
    return True


@ROOT_ONLY
def test_a_file_of_the_host_cannot_be_opened_by_its_handle(tmp_path):
    """CAP_DAC_READ_SEARCH is enough for it (open_by_handle_at(2)): any file of the file system that holds /usr."""
    canary = tmp_path / "canary"
    canary.write_text("secret of the host")
    libc = ctypes.CDLL(None, use_errno=True)
    handle, mount = ctypes.create_string_buffer(b"\x80\0\0\0" + bytes(132)), ctypes.c_int()
    assert libc.name_to_handle_at(-100, bytes(canary), handle, ctypes.byref(mount), 0) == 0
    attempt = """
        import ctypes, os, sys
        libc = ctypes.CDLL(None, use_errno=True)
        fd = libc.open_by_handle_at(os.open(sys.argv[2], 0), ctypes.create_string_buffer(bytes.fromhex(sys.argv[1])), 0)
        print(os.read(fd, 99) if fd >= 0 else os.strerror(ctypes.get_errno()))
    """

    assert python(attempt, handle.raw.hex(), "/usr")[0] == "Operation not permitted\n"
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(attempt), handle.raw.hex(), tmp_path], capture_output=True, check=True
    )
    assert b"secret of the host" in found.stdout or b"not permitted" in found.stdout


def test_no_setting_of_the_kernel_can_be_opened_for_writing():
    attempt = """
        import os
        for top, _, names in os.walk("/proc"):
            for path in [os.path.join(top, name) for name in names]:
                try:
                    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
                except OSError:
                    continue
                if os.stat(path).st_dev == os.stat("/proc").st_dev:
                    print(path)
        print("sure:", os.path.exists("/proc/sys/kernel/core_pattern"))
    """

    assert python(attempt)[0] == "sure: True\n"


def test_it_has_no_capability_and_cannot_get_one():
    attempt = "grep Cap /proc/self/status; unshare -U true || echo no namespace; unshare -m true || echo no mount"
    lines = confined("sh", "-c", attempt)[0].split()

    assert lines.count("0000000000000000") == 5
    assert " ".join(lines).endswith("no namespace no mount")


def test_it_has_no_descriptor_but_those_that_it_is_given(tmp_path):
    (tmp_path / "given").write_text("content")
    with open(tmp_path / "given") as given, open(tmp_path / "given") as other:
        os.set_inheritable(other.fileno(), True)
        listing = (
            "import os; print(sorted(int(n) for n in os.listdir('/proc/self/fd') if os.path.exists(f'/dev/fd/{n}')))"
        )
        found = python(listing, descriptors=[given.fileno()])[0]

        assert found == f"{sorted([0, 1, 2, given.fileno()])}\n"


@pytest.mark.parametrize("number", range(3, 10))
def test_a_descriptor_of_any_number_arrives(tmp_path, number):
    """Our own pipe is one of the small numbers as well; a process that has few files open gives such a one."""
    (tmp_path / "given").write_text("content")
    code = (
        "import os, subprocess, sys\nfrom darkroom import sandbox\nnumber = int(sys.argv[2])\n"
        "fd = os.open(sys.argv[1], 0)\nos.dup2(fd, number)\n"
        "with sandbox.running(['cat', f'/proc/self/fd/{number}'], descriptors=[number], file_size=0,\n"
        "                     stdout=subprocess.PIPE) as running:\n    print(running.process.stdout.read())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "given", str(number)], capture_output=True, check=True
    )

    assert done.stdout == b"b'content'\n"


def test_sockets_of_the_host_are_out_of_reach():
    import socket

    with socket.socket(socket.AF_UNIX) as abstract, socket.socket() as tcp:
        abstract.bind(f"\0darkroom-{os.getpid()}")
        abstract.listen()
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        attempt = """
            import socket, sys
            abstract, tcp = "\\0" + sys.argv[1], ("127.0.0.1", int(sys.argv[2]))
            for kind, address in ((socket.AF_UNIX, abstract), (socket.AF_INET, tcp)):
                with socket.socket(kind) as attempt:
                    print(attempt.connect_ex(address))
            print(socket.if_nameindex())
        """
        printed = python(attempt, f"darkroom-{os.getpid()}", tcp.getsockname()[1])[0].splitlines()

    assert "0" not in printed[:2]
    assert printed[2] == "[(1, 'lo')]"


def test_what_it_says_is_bounded_and_its_last_words_are_kept():
    code = "import sys\nfor n in range(10**9): print('word', n, file=sys.stderr, flush=n % 999 == 0)"
    words = python(code, file_size=64 * KiB)[1]

    assert 0 < len(words) <= 4096
    assert "word 0\n" not in words


def test_its_descriptors_are_bounded():
    code = "import os\ntry:\n    while True: n = os.open('/dev/null', 0)\nexcept OSError as e: print(n, e.strerror)"

    assert python(code)[0] == "255 Too many open files\n"


def test_a_system_that_lets_nobody_be_confined_is_named(tmp_path, monkeypatch):
    (tmp_path / "bwrap").write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    with pytest.raises(sandbox.SandboxRefusedError, match="No permissions to create new namespace"):
        confined("true")


def test_it_is_gone_though_its_parent_is_killed_at_any_moment_of_its_start():
    """--die-with-parent alone leaves those behind that are killed in their first milliseconds."""
    code = (
        "import sys, time\nfrom darkroom import sandbox\nprint('on', flush=True)\n"
        "with sandbox.running(['sleep', sys.argv[1]], file_size=0):\n    time.sleep(60)\n"
    )
    marker = f"98{os.getpid()}"
    for milliseconds in range(24):
        parent = subprocess.Popen([sys.executable, "-c", code, marker], stdout=subprocess.PIPE)
        assert parent.stdout.readline() == b"on\n"
        time.sleep(milliseconds / 2000)
        parent.kill()
        parent.wait()
        parent.stdout.close()

    assert gone(marker)


@ROOT_ONLY
@pytest.mark.parametrize(
    ("mode", "owner", "can"), [(0o600, 0, True), (0o000, 0, False), (0o600, 65534, False), (0o644, 65534, True)]
)
def test_which_descriptors_can_be_opened_again(tmp_path, mode, owner, can):
    (tmp_path / "file").write_text("content")
    os.chown(tmp_path / "file", owner, owner)
    (tmp_path / "file").chmod(mode)
    with open(tmp_path / "file") as file:
        assert sandbox.can_reopen(file.fileno()) == can
        assert (confined("cat", f"/proc/self/fd/{file.fileno()}", descriptors=[file.fileno()])[0] == "content") == can
