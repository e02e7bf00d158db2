"""Servers and volumes as a user runs them: commands and flows, with the embedded Prefect server."""

import json

import pytest
from prefect.client.orchestration import get_client

from blocks.host import LibvirtHost
from commands import main
from darkroom.catalog import servers as rows
from darkroom.errors import DarkroomError
from flows.create_server import create_server
from flows.create_volume import create_volume
from flows.parameters.servers import CreateServer, CreateVolume
from tests import computing
from tests.computing import image_of, says


@pytest.fixture
def darkroom(prefect_api, monkeypatch, capsys):
    """Run a command; what it prints."""
    monkeypatch.setenv("PREFECT_API_URL", prefect_api)

    def run(*words, code=0):
        assert main.main([*map(str, words)]) == code
        return capsys.readouterr().out.strip()

    return run


def test_a_server_and_a_volume_from_first_to_last_by_commands(to, compute_host, small_disk, tmp_path, darkroom):
    expected = image_of(to, small_disk, endless=True, key="gold")
    (tmp_path / "key.pub").write_text("ssh-ed25519 AAAA me\n")

    made = darkroom("server", "create", "one", "--name", "web-1", "--ram", 64, "--ssh-key", tmp_path / "key.pub")
    darkroom("volume", "create", "one", "--name", "data-1", "--attach", "web-1")

    assert says(compute_host, {"id": made}) == {expected}
    shown = json.loads(darkroom("server", "show", "web-1", "--json"))
    assert (shown["id"], shown["state"]) == (made, "running")
    assert [disk["volume"] for disk in shown["disks"]] == [None, "data-1"]
    with open(compute_host.server(made) / "console.log", "ab") as console:
        console.write("\x1b]52;c;cm0gLXJm\x07é\x9b31m".encode())  # as a guest that wants to steer the terminal would
    printed = darkroom("server", "console", "web-1")
    assert expected in printed
    assert "é" in printed
    assert not set(printed) & set("\x1b\x07\x9b")
    darkroom("server", "screenshot", "web-1", tmp_path / "screen.png")
    assert (tmp_path / "screen.png").read_bytes().startswith(b"\x89PNG")
    assert "data-1" in darkroom("volume", "list")
    darkroom("server", "stop", "web-1", "--force")
    assert json.loads(darkroom("server", "list", "--json"))[0]["state"] == "stopped"
    darkroom("volume", "detach", "data-1")
    darkroom("volume", "delete", "data-1")
    darkroom("server", "delete", "web-1")
    assert darkroom("server", "show", "web-1", code=4) == ""
    computing.assert_nothing_left(to, compute_host)


def test_a_refused_server_leaves_nothing_and_a_block_names_the_host(to, prefect_api, compute_host, small_disk):
    image_of(to, small_disk)
    LibvirtHost(name="kvm1").save("here", overwrite=True)
    with pytest.raises(DarkroomError, match="network-not-found"):
        create_server(CreateServer(image="one", name="web-1", memory=64, network="nowhere"))
    computing.assert_nothing_left(to, compute_host)

    result = create_volume(CreateVolume(image="one", name="data-1", host_block="here", full_copy=True))

    assert (result["host"], result["status"]) == ("kvm1", "whole")


def test_a_run_that_was_cancelled_is_undone(to, prefect_api, compute_host, small_disk):
    """Prefect calls the hook where the run was, when the run has ended."""
    from darkroom import servers

    image_of(to, small_disk)
    servers.register(to, computing.request_for())
    parameters = {"request": {"image": "one", "name": "web-1"}}
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(create_server, parameters=parameters)
    (hook,) = create_server.on_cancellation_hooks

    hook(create_server, run, run.state)
    hook(create_server, run, run.state)

    assert rows.listed(to.catalog) == []
    computing.assert_nothing_left(to, compute_host)
