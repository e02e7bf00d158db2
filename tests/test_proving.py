"""Boot proofs in guests of one sector on a private libvirt: what passes, what is bounded, what is kept and what not."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from darkroom import creation, proving, screen, tending
from darkroom.catalog import images
from darkroom.compute import domain, hosts, probe, throwaway
from darkroom.errors import DamagedError, DarkroomError
from darkroom.model import MiB
from darkroom.proving import ProofRequest
from demo import disk
from tests import guests, operations
from tests.hosts import domains

PROMPT = guests.says("debian 12 web ttyS0\r\n\r\nweb login: ")


@pytest.fixture
def boots(to, tmp_path):
    """Import a disk of 8 MiB that begins with a boot sector."""
    made = []

    def make(sector, **fields):
        path = tmp_path / f"{len(made)}.raw"
        path.write_bytes(sector)
        os.truncate(path, 8 * MiB)
        made.append(operations.import_image(to, path, name=f"image-{len(made)}", **fields))
        return made[-1]

    return make


def prove(to, image, text="", seconds=120):
    return proving.prove(to, image, ProofRequest(text=text, seconds=seconds), operations.quiet)


def seen(to, image):
    return proving.seen(to, images.get(to.catalog, image))


@pytest.mark.parametrize("key", ["", "gold"])
def test_a_guest_that_asks_for_a_login_has_booted(to, host, boots, key):
    image = boots(PROMPT, key=key)

    proof = prove(to, image)

    assert (proof["booted"], proof["how"]) == (True, "login prompt on the serial port")
    serial, picture = seen(to, image)
    assert serial.rstrip().endswith(b"web login:")
    assert picture.startswith(b"\x89PNG")
    assert images.get(to.catalog, image)["boot_verified_at"]
    with to.catalog.transaction() as connection:
        rows = connection.execute("SELECT profile FROM disks").fetchall()
        kept = connection.execute("SELECT serial, screenshot FROM proofs").fetchone()
    assert rows[0]["profile"] == [0]
    assert (b"login" in kept["serial"], kept["screenshot"][1:4] == b"PNG") == (not key, not key)


def test_a_text_that_is_given_is_what_counts(to, host, boots):
    image = boots(probe.sector(text="service is up"))

    assert prove(to, image, "is up")["how"] == "text on the serial port"
    with pytest.raises(proving.BootProofError, match="service is up"):
        prove(to, image, "is down")


@pytest.mark.parametrize("mode", ["bios", "uefi"])
def test_firmware_that_finds_nothing_to_boot_is_no_proof(to, host, boots, mode):
    """Its words stay on the screen for longer than a screen has to."""
    image = boots(b"no boot sector")
    with to.catalog.transaction() as connection:
        images.update(connection, image, properties={"boot_mode": mode})

    with pytest.raises(proving.BootProofError, match="nothing of it within"):
        prove(to, image, seconds=int(screen.STILL) + 8)

    assert not images.get(to.catalog, image)["boot_verified_at"]
    assert proving.shown(to, images.get(to.catalog, image)["id"])["booted"] is False
    assert seen(to, image)[1].startswith(b"\x89PNG")


def test_a_screen_on_which_a_system_has_settled_is_a_proof(to, host, tmp_path):
    """A small Linux that says nothing on its serial port, and has no agent."""
    path = tmp_path / "quiet.raw"
    lines = "for line in 1 2 3 4 5 6; do echo 'Welcome to this system. Press any key to log in.' > /dev/tty0; done"
    disk.build(path, Path("build/packages").absolute(), f"{lines}; sleep 1000")
    image = operations.import_image(to, path)

    assert prove(to, image)["how"] == "the screen has settled"


def test_a_guest_that_floods_its_serial_port_costs_bounded_space_and_time(to, host, boots):
    image = boots(guests.floods())

    with pytest.raises(proving.BootProofError):
        prove(to, image, seconds=6)

    serial, _ = seen(to, image)
    assert len(serial) == throwaway.SERIAL_LIMIT
    assert set(serial) == {ord("x")}


def test_a_guest_that_fills_its_disk_is_stopped(to, host, boots, monkeypatch):
    monkeypatch.setattr(proving, "_WRITES", 2 * MiB)
    image = boots(guests.fills())

    with pytest.raises(proving.BootProofError, match="wrote more to its disks"):
        prove(to, image)


def test_of_an_encrypted_image_no_word_is_in_the_clear(to, host, boots):
    image = boots(probe.sector(text="secret of the guest"), key="gold")

    with pytest.raises(proving.BootProofError) as caught:
        prove(to, image)

    assert "secret" not in str(caught.value)
    assert b"secret of the guest" in seen(to, image)[0]
    with to.catalog.transaction() as connection:
        rows = [dict(row) for name in ("proofs", "events") for row in connection.execute(f"SELECT * FROM {name}")]
    assert b"secret" not in repr(rows).encode()


def test_damage_in_the_store_is_said_to_be_that(to, host, boots):
    image = boots(guests.checks(8 * MiB) + os.urandom(7 * MiB))
    for path in (to.settings.home / "store").rglob("packs/*/*"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    with pytest.raises(DamagedError):
        prove(to, image)
    with pytest.raises(proving.ProofMissingError):
        seen(to, image)


def test_an_import_that_needs_a_proof_and_has_none_is_no_image(to, host, boots):
    image = boots(b"no boot sector", until="read_back")

    with pytest.raises(DarkroomError) as caught:
        prove(to, image, seconds=2)
    creation.fail(to, image, caught.value)

    row = images.get(to.catalog, image)
    assert (row["status"], row["failure"]["code"]) == ("killed", "boot-unproved")


def test_a_data_image_is_refused(to, host, boots):
    with pytest.raises(proving.NothingToBootError):
        prove(to, boots(PROMPT, type="data"))


def test_the_image_that_was_proved_longest_ago_comes_first(to, host, boots):
    old, new, never = boots(PROMPT), boots(PROMPT), boots(PROMPT)
    boots(PROMPT, type="data")
    with to.catalog.transaction() as connection:
        for image, hours in ((old, 9), (new, 1)):
            query = "UPDATE images SET boot_verified_at = now() - make_interval(hours => %s) WHERE id = %s"
            connection.execute(query, (hours, image))

    assert proving.oldest(to, 2) == [never, old]


CHILD = """
import sys
from darkroom import proving
from darkroom.settings import Settings
from darkroom.systems import open_systems
def progress(done, total):
    print("at", flush=True)
with open_systems(Settings()) as to:
    proving.prove(to, sys.argv[1], proving.ProofRequest(seconds=60), progress)
"""


def test_killed_it_leaves_neither_guest_nor_files(to, host, boots, libvirt_uri):
    image = boots(guests.floods())
    child = subprocess.Popen([sys.executable, "-c", CHILD, image], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"at\n"
    assert len(domains(libvirt_uri)) == 1
    child.kill()
    child.wait(20)
    child.stdout.close()

    run = hosts.find(to.catalog).run
    assert domain.wait(lambda: not domains(libvirt_uri) and not list(run.glob("proof-*")), 30)


def test_killed_together_with_its_guard_the_next_one_removes_what_it_left(to, host, boots, libvirt_uri):
    image = boots(guests.floods())
    child = subprocess.Popen([sys.executable, "-c", CHILD, image], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"at\n"
    run = hosts.find(to.catalog).run
    (folder,) = run.glob("proof-*")
    found = subprocess.run(["pgrep", "-f", f"darkroom.compute.guard.*{folder}"], capture_output=True, check=True)
    os.kill(int(found.stdout), signal.SIGKILL)
    child.kill()
    child.wait(20)
    child.stdout.close()
    assert len(domains(libvirt_uri)) == 1

    tending.tend(to)

    assert domains(libvirt_uri) == []
    assert not folder.exists()


def test_a_screen_has_settled_when_it_shows_something_and_only_a_cursor_changes():
    blank, one, other = (picture(shows) for shows in ((), (50,), (50, 200)))
    cursor = picture((50,), cursor=True)

    shown = screen.Screen()
    assert [shown.show(png, now) for png, now in ((blank, 0), (blank, 30), (one, 40), (cursor, 45))] == [False] * 4
    assert shown.show(one, 50)
    assert not shown.show(other, 51)


def picture(rows, cursor=False):
    import io

    from PIL import Image

    image = Image.new("RGB", (640, 400))
    for row in rows:
        image.paste((200, 200, 200), (10, row, 300, row + 16))
    if cursor:
        image.paste((200, 200, 200), (320, 50, 328, 66))
    written = io.BytesIO()
    image.save(written, "PNG")
    return written.getvalue()
