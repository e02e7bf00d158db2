"""The flows of captures and boot proofs under Prefect: how they end, and what they show."""

import os

import pytest
from prefect.artifacts import Artifact

import tasks.capturing
from darkroom import capturing, proving
from darkroom.capturing import CaptureRequest
from darkroom.catalog import images
from darkroom.compute import domain, probe
from darkroom.errors import RefusedError
from flows.capture_server import capture_server
from flows.import_image import import_image
from flows.parameters.capture import CaptureServer, ProveBoot, ProveOldest
from flows.parameters.transfer import ImportImage
from flows.prove_boot import prove_boot
from flows.prove_oldest import prove_oldest
from tasks.systems import Blocks
from tests import guests, operations
from tests.test_capture import checkpoints, server  # noqa: F401

PROMPT = guests.says("web login: ")


@pytest.fixture
def source(tmp_path):
    """Make a disk of 8 MiB that begins with a boot sector."""

    def make(sector):
        path = tmp_path / "source.raw"
        path.write_bytes(sector)
        os.truncate(path, 8 << 20)
        return str(path)

    return make


def test_a_captured_server_is_an_active_image_and_found_done_again(to, host, server, prefect_api):  # noqa: F811
    made = server(formats=("qcow2",))
    form = CaptureServer(server=made.name, name="golden", key="gold")

    first, again = capture_server(form), capture_server(form)

    assert first == again
    assert (first["status"], first["key"]) == ("active", "gold")
    assert checkpoints(host, made) == [f"darkroom-{first['image']}"]


def test_a_capture_that_fails_is_no_image_and_leaves_nothing(to, host, server, prefect_api, monkeypatch):  # noqa: F811
    made = server(formats=("qcow2",))

    def broken(*_):
        raise RefusedError("the pass")

    monkeypatch.setattr(capturing.creation, "upload_disks", broken)
    with pytest.raises(RefusedError):
        capture_server(CaptureServer(server=made.name, name="golden"))

    with to.catalog.transaction() as connection:
        rows = connection.execute("SELECT status, failure FROM images").fetchall()
    assert [(row["status"], row["failure"]["code"]) for row in rows] == [("killed", "refused")]
    assert checkpoints(host, made) == []
    assert domain.is_running(host, made.uuid)


def test_a_run_that_is_cancelled_takes_its_unfinished_image_along(to, host, server, prefect_api):  # noqa: F811
    made = server(formats=("qcow2",))
    capture_server(CaptureServer(server=made.name, name="done"))
    capturing.register(to, CaptureRequest(server=made.name, name="begun"))

    for name in ("done", "begun", "never"):
        tasks.capturing.cancelled(name, Blocks())

    assert [row["name"] for row in _rows(to, "active")] == ["done"]
    assert _rows(to, "saving") + _rows(to, "queued") == []


def _rows(to, status):
    with to.catalog.transaction() as connection:
        return connection.execute("SELECT name FROM images WHERE status = %s", (status,)).fetchall()


def test_the_screen_is_an_artifact_unless_the_image_is_encrypted(to, host, source, prefect_api):
    sealed = operations.import_image(to, source(PROMPT), name="sealed", key="gold")
    prove_boot(ProveBoot(image=sealed))
    assert Artifact.get("boot") is None
    plain = operations.import_image(to, source(PROMPT), name="plain")

    result = prove_boot(ProveBoot(image="plain"))

    assert (result["image"], result["booted"]) == (plain, True)
    assert str(Artifact.get("boot").data).startswith("data:image/png;base64,")


def test_an_import_that_has_to_boot_is_active_only_if_it_does(to, host, source, prefect_api):
    good = import_image(ImportImage(source=source(PROMPT), name="good", prove_boot=True))
    with pytest.raises(proving.BootProofError):
        import_image(ImportImage(source=source(probe.sector(text="panic")), name="bad", prove_boot=True))

    assert good["status"] == "active"
    assert images.find(to.catalog, "good")["boot_verified_at"]
    with to.catalog.transaction() as connection:
        row = connection.execute("SELECT status, failure FROM images WHERE name = 'bad'").fetchone()
    assert (row["status"], row["failure"]["code"]) == ("killed", "boot-unproved")


def test_those_that_were_proved_longest_ago_are_proved_again(to, host, source, prefect_api):
    booting = operations.import_image(to, source(PROMPT), name="booting")
    not_booting = operations.import_image(to, source(bytes(512)), name="not-booting")

    result = prove_oldest(ProveOldest(count=2, seconds=5))

    assert result[booting] == "login prompt on the serial port"
    assert result[not_booting].startswith("boot-unproved")
