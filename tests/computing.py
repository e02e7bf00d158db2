"""Servers as a flow makes them, without Prefect, and what their guests say."""

import os
import re
import signal
from contextlib import contextmanager
from pathlib import Path

from darkroom import servers, volumes
from darkroom.catalog import Catalog
from darkroom.catalog import servers as rows
from darkroom.compute import domain, keeping
from darkroom.compute import hosts as compute_hosts
from darkroom.servers import ServerRequest
from tests import guests, hosts, operations


@contextmanager
def host(to, catalog_url, uri, storage, *open_to):
    """A compute host in the catalog; at the end nothing of its servers may be left."""
    found = compute_hosts.Host("kvm1", uri, storage, "tcg", 1 << 30, open_to)
    with Catalog(catalog_url, None) as operator:
        compute_hosts.add(operator, found)
    found.prepare()
    yield found
    delete_all(to)
    assert_nothing_left(to, found)
    keeping.stop(found)
    assert domain.wait(lambda: not processes_of(found), 10), processes_of(found)


def image_of(to, disk, name="one", endless=False, **fields):
    """An image whose guest checks its whole disk; the checksum that it writes."""
    guests.bootable(disk, endless=endless)
    operations.import_image(to, disk, name=name, format="raw", **fields)
    return guests.checksum(disk.read_bytes())


def request_for(image="one", name="web-1", **fields):
    return ServerRequest(image, name, **{"memory": 64, **fields})


def create(to, image="one", name="web-1", **fields):
    request = request_for(image, name, **fields)
    found = servers.register(to, request)
    servers.provide(to, found["server"], request, operations.quiet)
    return servers.boot(to, found["server"])


def sums(host, server):
    """The checksums, and errors, that a guest has written."""
    path = host.server(server["id"]) / "console.log"
    text = path.read_text(errors="replace") if path.exists() else ""
    return re.findall(r"s[0-9a-f]{8}(?=\r?\n)|E", text)


def says(host, server, count=1, seconds=90):
    """Wait until a guest has written so many checksums; all of them."""
    domain.wait(lambda: len(sums(host, server)) >= count, seconds)
    found = sums(host, server)
    assert len(found) >= count, (host.run / "keeper.log").read_text()
    return set(found)


def writes(to, reference, text, seconds=60):
    """Whether a guest writes this to its serial port in time."""
    return domain.wait(lambda: text in servers.console(to, reference).read_bytes(), seconds)


def becomes_whole(to, host, reference="web-1", seconds=90):
    def whole():
        return all(disk["status"] == "whole" for disk in servers.describe(to, reference)["disks"])

    assert domain.wait(whole, seconds), (host.run / "keeper.log").read_text()


def kill_keeper(host):
    """kill -9, and wait until another one serves."""
    old = keeping.ask(host, "status")["pid"]
    os.kill(old, signal.SIGKILL)
    return old


def delete_all(to):
    for row in rows.listed(to.catalog):
        servers.delete(to, str(row["id"]))
    for row in rows.volumes(to.catalog):
        volumes.delete(to, str(row["id"]))


def assert_nothing_left(to, host):
    """No domain, file, socket, process, row or hold."""
    assert hosts.domains(host.uri) == []
    assert [path.name for path in (host.storage / "disks").iterdir()] == []
    assert [path.name for path in (host.storage / "servers").iterdir()] == []
    kept = {"start.lock", "keeper.lock", "keeper.log", "keeper"}
    # The keeper lets go of a disk that was removed while it could not be told within its next look.
    assert domain.wait(lambda: {path.name for path in host.run.iterdir()} <= kept, 90), list(host.run.iterdir())
    with to.catalog.transaction() as connection:
        for table in ("servers", "server_disks", "holds"):
            assert connection.execute(f"SELECT * FROM {table}").fetchall() == []


def processes_of(host):
    """The command lines of processes that serve what is below the host's folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(host.run) in words and not words.startswith("/usr/bin/qemu-system"):
                found.append(words)
    return found
