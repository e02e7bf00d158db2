"""Tending: what hosts need from time to time.

The keeper runs where a disk still reads from its image; what was begun and given up is removed,
and what captures and boot proofs left that were killed together with their guards.
"""

from typing import Any

from darkroom import servers, volumes
from darkroom.catalog.servers import given_up
from darkroom.compute import connection, guard, hosts, keeping
from darkroom.systems import Systems


def tend(to: Systems) -> dict[str, Any]:
    """Look after servers and volumes on this machine's hosts, of the project that acts, or of all for the operator.

    Returns the hosts whose keeper runs, and the names of what was removed.
    """
    with to.catalog.transaction() as transaction:
        lazy = {row["host"] for row in transaction.execute("SELECT host FROM server_disks WHERE status = 'lazy'")}
        stale_servers = given_up(transaction, "servers")
        stale_volumes = [row for row in given_up(transaction, "server_disks") if row["volume"]]
    here = [host for host in hosts.listed(to.catalog) if host.storage.is_dir()]
    kept = [host.name for host in here if host.name in lazy and keeping.ensure(to, host)]
    for host in here:
        if guard.has_left(host.run):
            with connection.open(host.uri) as libvirt:
                guard.sweep(libvirt, host.run)
    local = {host.name for host in here}
    removed = []
    for row in stale_servers:
        if row["host"] in local:
            servers.remove(to, row)
            removed.append(row["name"])
    for row in stale_volumes:
        if row["host"] in local:
            volumes.remove(to, row)
            removed.append(row["volume"])
    return {"hosts": kept, "removed": removed}
