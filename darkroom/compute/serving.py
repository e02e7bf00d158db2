"""One lazy disk in the keeper: its export, its proxy, and the copy in the background that makes it whole."""

import os
import struct
import subprocess
import time
from pathlib import Path
from typing import Any

from darkroom import manifest, reading
from darkroom.catalog import Catalog
from darkroom.compute import connection, diskkeys, domain, keeping, overlay, profiles, proxy
from darkroom.compute.chunkcache import HostChunks
from darkroom.compute.hosts import Host
from darkroom.compute.lazydisk import LazyDisk
from darkroom.nbd.server import NbdServer
from darkroom.systems import Systems

_QUIET = 3.0
"""Seconds in which the guest reads nothing new, after which the copy begins: a boot has the line for itself."""
_BUSY = 120.0
"""Seconds after which it begins in any case."""
_TOLD = 1.0
_BACKING = struct.Struct(">8xQ")


class Served:
    """An open export; `tend` is called again and again."""

    def __init__(self, host: Host, to: Systems, operator: Catalog, chunks: HostChunks, row: dict[str, Any]) -> None:
        self.host, self.id = host, row["id"]
        self._to = to
        self._opened = time.monotonic()
        self._told = 0.0
        self._copy: subprocess.Popen[bytes] | None = None
        table = manifest.read(to.store, row["image_id"], row["image_disk"], row["manifest_digest"])
        data_key, locate = diskkeys.data_key(to, self.id), reading.locator(operator, row["image_id"])
        with connection.open(host.uri) as libvirt:
            self._owner, _ = domain.account(libvirt)
        with to.catalog.transaction() as transaction:
            profile = profiles.load(transaction, row["image_id"], row["image_disk"])
        socket = keeping.export_socket(host, self.id)
        socket.unlink(missing_ok=True)  # of a keeper that was killed
        self.disk = LazyDisk(to.store, table, data_key, chunks, locate)
        self._server = NbdServer(self.disk, socket)
        self._server.__enter__()
        self.disk.prefetch(profile)

    def ready(self, row: dict[str, Any]) -> None:
        """Have the proxy run, and leave a volume that was attached to its guest."""
        proxy.ensure(keeping.proxy_socket(self.host, self.id), keeping.export_socket(self.host, self.id), self._owner)
        if row["server_id"]:
            self._stop_copy()

    def tend(self, row: dict[str, Any]) -> bool:
        """Go on with what is to do; True if the disk is whole now, and safe on the host's disk."""
        path = self.host.disk(self.id)
        if not path.exists():
            return False
        if not has_backing(path) and self._copy is None:
            _sync(path)
            return True
        if row["server_id"] is None:
            self._flatten(path, row)
        else:
            with connection.open(self.host.uri) as libvirt:
                self._tend_guest(libvirt, row)
        return False

    def close(self) -> None:
        """Serve no more, and end the proxy."""
        self._stop_copy()
        self.disk.close()
        self._server.__exit__(None, None, None)
        proxy.stop(keeping.proxy_socket(self.host, self.id))

    def _tend_guest(self, libvirt: Any, row: dict[str, Any]) -> None:
        state, why = domain.state(libvirt, row["server_id"])
        if why == "io-error":
            domain.resume(libvirt, row["server_id"])
        if state != "running":
            return
        job = domain.hydration(libvirt, row["server_id"], row["target"])
        if job:
            self._tell(row, job[0])
        elif self._is_quiet():
            domain.hydrate(libvirt, row["server_id"], row["target"])

    def _is_quiet(self) -> bool:
        now = time.monotonic()
        return now - max(self.disk.last_new, self._opened) > _QUIET or now - self._opened > _BUSY

    def _flatten(self, path: Path, row: dict[str, Any]) -> None:
        """Copy into a volume that no guest has; a copy that failed, or was killed, begins again."""
        if self._copy is None:
            self._copy = overlay.flattening(path, diskkeys.disk_key(self._to, row["id"]))
        elif self._copy.poll() is not None:
            copy, self._copy = self._copy, None
            overlay.ended(path, copy)
        self._tell(row, min(self.disk.furthest, row["size"]))

    def _stop_copy(self) -> None:
        if self._copy is not None:
            self._copy.kill()
            self._copy.communicate()
            self._copy = None

    def _tell(self, row: dict[str, Any], done: int) -> None:
        """Put the progress into the row, but not at each tick."""
        if time.monotonic() - self._told > _TOLD:
            self._told = time.monotonic()
            query = "UPDATE server_disks SET hydrated = %s WHERE id = %s AND status = 'lazy'"
            with self._to.catalog.transaction() as transaction:
                transaction.execute(query, (done, self.id))


def has_backing(path: Path) -> bool:
    """Whether the qcow2 at `path` reads anything from another file."""
    with open(path, "rb") as file:
        return bool(_BACKING.unpack(file.read(_BACKING.size))[0])


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
