"""Servers from images, on a private libvirt, with guests of one sector that check their whole disk."""

import os
from pathlib import Path

import pytest

from darkroom import servers
from darkroom.catalog import Catalog
from darkroom.catalog import servers as rows
from darkroom.compute import domain, hosts, keeping
from darkroom.compute.hosts import Host
from darkroom.model import GiB
from darkroom.servers import ServerRequest
from tests import guests, operations
from tests import hosts as private


@pytest.fixture
def host(to, catalog_url, libvirt_uri, home):
    """A compute host in the catalog; nothing of it may be left at the end."""
    found = Host("kvm1", libvirt_uri, home / "host", "tcg", 1 * GiB)
    with Catalog(catalog_url, None) as operator:
        hosts.add(operator, found)
    yield found
    for row in rows.listed(to.catalog):
        servers.delete(to, str(row["id"]))
    keeping.stop(found)
    left(found)


def left(host):
    """Assert that nothing is on the host: no domain, file, socket or process."""
    assert private.domains(host.uri) == []
    assert [path.name for path in (host.storage / "disks").iterdir()] == []
    assert [path.name for path in (host.storage / "servers").iterdir()] == []
    assert {path.name for path in host.run.iterdir()} <= {"start.lock", "keeper.lock", "keeper.log", "keeper"}
    assert domain.wait(lambda: not [words for words in processes() if str(host.run) in words], 10), list(processes())


def processes():
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if int(entry.name) != os.getpid():
                yield words


def image_of(to, disk, endless=False, **fields):
    guests.bootable(disk, endless=endless)
    return operations.import_image(to, disk, format="raw", **fields)


def create(to, image="one", name="web-1", **fields):
    request = ServerRequest(image, name, **{"memory": 64, **fields})
    found = servers.register(to, request)
    servers.provide(to, found["server"], request, operations.quiet)
    return servers.boot(to, found["server"])


def console(host, server):
    path = host.server(server["id"]) / "console.log"
    return path.read_text(errors="replace") if path.exists() else ""


def says(host, server, text, seconds=60):
    return domain.wait(lambda: text in console(host, server), seconds)


def becomes_whole(to, server, seconds=60):
    return domain.wait(
        lambda: all(d["status"] == "whole" for d in servers.describe(to, server["id"])["disks"]), seconds
    )


@pytest.mark.parametrize("key", ["", "gold"])
def test_a_server_runs_at_once_and_becomes_whole_and_then_depends_on_nothing(to, host, small_disk, key):
    image_of(to, small_disk, endless=True, key=key)
    expected = guests.checksum(small_disk.read_bytes())

    server = create(to)

    assert server["status"] == "ready"
    assert says(host, server, expected), console(host, server)
    assert becomes_whole(to, server), (host.run / "keeper.log").read_text()
    keeping.stop(host)
    seen = console(host, server).count(expected)
    assert domain.wait(lambda: console(host, server).count(expected) > seen + 2, 30)
    assert set(console(host, server).split()) == {expected}
