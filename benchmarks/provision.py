"""How fast a server is there, against a full copy and a local overlay of the same disk; prints ratios.

    python benchmarks/provision.py [--folder build/bench] [--delay 0.02] [--rounds 2]

Needs root: a Debian guest is built once (`guest.py`), and libvirt of this machine's QEMU is run in a folder of its own.
A boot is measured from the command to the guest's own word on its serial port that all is up.
"""

import argparse
import dataclasses
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import debian, guest
from darkroom import manifest, postgres, reading, servers, systems
from darkroom.catalog import Catalog, images
from darkroom.compute import chunkcache, connection, domain, hosts, keeping, lazydisk, overlay, probe, profiles, proxy
from darkroom.compute.domain import Disk, Domain
from darkroom.compute.hosts import Host
from darkroom.model import CHUNK_SIZE
from darkroom.nbd.server import NbdServer
from darkroom.servers import ServerRequest
from darkroom.settings import Settings
from darkroom.systems import Systems
from tests import hosts as private
from tests import operations

GIB, MIB, BLOCK = 1 << 30, 1 << 20, 4096
_UP = 600
_LASTS = 30.0


class Slow:
    """A store whose gets take longer."""

    def __init__(self, store, delay: float) -> None:
        self._store, self._delay = store, delay

    def get(self, *arguments, **options) -> bytes:
        time.sleep(self._delay)
        return self._store.get(*arguments, **options)

    def __getattr__(self, name: str):
        return getattr(self._store, name)


@contextmanager
def machine(folder: Path) -> Iterator[tuple[Systems, Host]]:
    """A fresh home with a compute host."""
    with tempfile.TemporaryDirectory(prefix="dk-", dir="/tmp") as short:
        with private.libvirtd(Path(short) / "libvirt", folder / "libvirt") as uri:
            os.environ["DARKROOM_HOME"] = f"{short}/home"  # the keeper's, too
            settings = Settings()
            with systems.open_systems(settings) as to:
                to.keys.create("gold")
                host = Host("bench", uri, Path(short) / "host", "tcg", 4 * GIB)
                host.prepare()
                with Catalog(systems.catalog_dsn(settings), None) as operator:
                    hosts.add(operator, host)
                yield to, host
                keeping.stop(host)
        postgres.stop(Path(short) / "home/catalog")


def boot(host: Host, disk: Disk, folder: Path, marker: str = guest.MARKER) -> float:
    """Seconds until a guest on this disk is up: until it says `marker`."""
    console = folder / f"console-{uuid4()}"
    made = Domain(uuid4(), f"bench-{uuid4()}", (disk,), "tcg", cpus=2, memory=1024, console=console)
    began = time.monotonic()
    with connection.open(host.uri) as libvirt:
        try:
            domain.start(libvirt, made)
            if not domain.wait(lambda: console.exists() and marker in console.read_text(errors="replace"), _UP):
                raise SystemExit(f"the guest did not come up: {console.read_text(errors='replace')[-500:]}")
            return time.monotonic() - began
        finally:
            domain.remove(libvirt, made.uuid)


def local(host: Host, disk: Path, folder: Path) -> float:
    """From a local overlay over the raw disk."""
    path = folder / "local.qcow2"
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", disk.absolute(), path]
    subprocess.run(command, check=True)
    return boot(host, Disk(path, "qcow2"), folder)


def copied(host: Host, disk: Path, folder: Path) -> float:
    """From a copy that is made first."""
    path = folder / "copy.qcow2"
    began = time.monotonic()
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", disk, path], check=True)
    taken = time.monotonic() - began
    return taken + boot(host, Disk(path, "qcow2"), folder)


@dataclasses.dataclass
class Lazy:
    """A boot from the store through an export and a proxy, as the keeper serves it, in this process."""

    seconds: float
    fetched: int
    chunks: list[int]
    asked: int

    def tell(self, until: str, image, needed: int) -> None:
        """Print how much was fetched, in stored bytes, and how much the guest read, in its own."""
        stored, allocated = image["stored_size"], image["allocated_size"]
        print(f"{image['name']}, fetched until {until}: {self.fetched / MIB:.0f} MiB of {stored / MIB:.0f}, ", end="")
        print(f"{100 * self.fetched / stored:.1f} %; the chunks that it read are {100 * needed / stored:.1f} %")
        print(f"  the guest read {self.asked / MIB:.0f} MiB of {allocated / MIB:.0f}, ", end="")
        print(f"{100 * self.asked / allocated:.1f} %, in {len(self.chunks)} chunks", flush=True)


class Asked(profiles.Recorder):
    """Counts what is read, too: each block of 4 KiB once."""

    def __init__(self, reader: lazydisk.LazyDisk) -> None:
        super().__init__(reader)
        self._blocks: set[int] = set()

    @property
    def asked(self) -> int:
        """Bytes read so far."""
        return BLOCK * len(self._blocks)

    def read(self, offset: int, length: int) -> bytes:
        """As the other reader does."""
        self._blocks.update(range(offset // BLOCK, -(-(offset + length) // BLOCK)))
        return super().read(offset, length)


@contextmanager
def opened(
    to: Systems, host: Host, image, delay: float, profile: list[int]
) -> Iterator[tuple[lazydisk.LazyDisk, chunkcache.HostChunks]]:
    """The image as the keeper has it, with an empty cache, `delay` seconds added to each get, and a profile or none."""
    shutil.rmtree(host.cache, ignore_errors=True)
    store = Slow(to.store, delay) if delay else to.store
    cache = chunkcache.HostChunks(store, chunkcache.ChunkCache(host.cache, host.cache_size))
    with to.catalog.transaction() as transaction:
        query = "SELECT manifest_digest FROM disks WHERE image_id = %s AND number = 0"
        digest = transaction.execute(query, (image["id"],)).fetchone()["manifest_digest"]
    table = manifest.read(to.store, image["id"], 0, digest)
    key = systems.data_key(to, image)
    reader = lazydisk.LazyDisk(store, table, key, cache, reading.locator(to.catalog, image["id"]))
    reader.prefetch(profile)
    try:
        yield reader, cache
    finally:
        reader.close()


def needed(to: Systems, host: Host, image, chunks: list[int]) -> int:
    """Stored bytes of these chunks."""
    with opened(to, host, image, 0, []) as (reader, cache):
        for future in reader.prefetch(chunks):
            future.result()
        return cache.fetched


def lazy(
    to: Systems, host: Host, image, folder: Path, delay: float, profile: list[int], marker: str = guest.MARKER
) -> Lazy:
    """Boot from the store through an export and a proxy, all in this process but the proxy."""
    export, socket, path = host.run / "bench.x", host.run / "bench.p", folder / "lazy.qcow2"
    path.unlink(missing_ok=True)
    began = time.monotonic()
    with opened(to, host, image, delay, profile) as (reader, cache):
        recorder = Asked(reader)
        try:
            with NbdServer(recorder, export):
                proxy.ensure(socket, export, 0)
                overlay.create(path, reader.size, b"", socket)
                seconds = time.monotonic() - began + boot(host, Disk(path, "qcow2"), folder, marker)
                return Lazy(seconds, cache.fetched, recorder.chunks, recorder.asked)
        finally:
            proxy.stop(socket)


def stalled(
    to: Systems, host: Host, image, delay: float, profile: list[int], numbers: list[int], lasts: float
) -> float:
    """Seconds for which a boot of `lasts` seconds would wait in all, that asks for these chunks at an even pace."""
    waited = 0.0
    with opened(to, host, image, delay, profile) as (reader, _):
        for number in numbers:
            time.sleep(lasts / len(numbers))
            began = time.monotonic()
            reader.read(number * CHUNK_SIZE, 512)
            waited += time.monotonic() - began
    return waited


def to_running(to: Systems, host: Host, folder: Path, size: int) -> list[float]:
    """Seconds from the request to a running server, of an image of `size` bytes with data all over it; three times."""
    disk = folder / "sparse.raw"
    source = random.Random(size)
    with open(disk, "wb") as file:
        file.truncate(size)
        file.write(probe.sector())
        for _ in range(256):
            file.seek(source.randrange(1, size // MIB - 1) * MIB)
            file.write(source.randbytes(MIB))
    name = f"sparse-{size // GIB}"
    operations.import_image(to, disk, name=name, format="raw", key="gold")
    disk.unlink()
    taken = []
    for number in range(5):
        request = ServerRequest(name, f"{name}-{number}", memory=64)
        began = time.monotonic()
        found = servers.register(to, request)
        servers.provide(to, found["server"], request, operations.quiet)
        servers.boot(to, found["server"])
        taken.append(time.monotonic() - began)
        servers.delete(to, found["server"])
    return taken


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=Path("build/bench"))
    parser.add_argument("--delay", type=float, default=0.02)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--login", action="store_true", help="only what guests fetch until their login")
    options = parser.parse_args()
    disk = options.folder / "guest.raw"
    guest.build(disk)
    if options.login:
        plain = debian.build(options.folder / "debian.raw")
        with machine(options.folder.absolute()) as (to, host), tempfile.TemporaryDirectory() as scratch:
            for name, each in (("debian", plain), ("server", disk)):
                until_login(to, host, Path(scratch), name, each)
        return
    with machine(options.folder.absolute()) as (to, host), tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        folder = Path(scratch).absolute()
        small, large = (sorted(to_running(to, host, folder, size)) for size in (1 * GIB, 100 * GIB))
        print(f"running, 1 GiB image: median {small[2]:.2f} s of {shown(small)}", flush=True)
        print(
            f"running, 100 GiB image: {large[2]:.2f} s of {shown(large)}; ratio {large[2] / small[2]:.2f}", flush=True
        )
        operations.import_image(to, disk, name="guest", format="raw", key="gold")
        boots(to, host, folder, disk, options.delay, options.rounds)


def until_login(to: Systems, host: Host, folder: Path, name: str, disk: Path) -> None:
    """A guest until its login prompt."""
    operations.import_image(to, disk, name=name, format="raw", key="gold")
    image = images.find(to.catalog, name)
    cold = lazy(to, host, image, folder, 0, [], "login:")
    cold.tell(f"login, {cold.seconds:.0f} s", image, needed(to, host, image, cold.chunks))


def boots(to: Systems, host: Host, folder: Path, disk: Path, delay: float, rounds: int) -> None:
    """Each way of booting in turn, so often; the best of each counts, for machines are shared."""
    image = images.find(to.catalog, "guest")
    cold = lazy(to, host, image, folder, 0, [])
    cold.tell("all is up", image, needed(to, host, image, cold.chunks))
    text = f"{1000 * delay:.0f} ms a get"
    for name, profile in (("no profile", []), ("profile", cold.chunks)):
        seconds = stalled(to, host, image, delay, profile, cold.chunks, _LASTS)
        print(f"{text}, {name}: a boot of {_LASTS:.0f} s waits {seconds:.1f} s", flush=True)
    ways = {
        "local overlay": lambda: local(host, disk, folder),
        "copy, then boot": lambda: copied(host, disk, folder),
        "from the store": lambda: lazy(to, host, image, folder, 0, []).seconds,
        f"{text}, no profile": lambda: lazy(to, host, image, folder, delay, []).seconds,
        f"{text}, profile": lambda: lazy(to, host, image, folder, delay, cold.chunks).seconds,
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            taken[name].append(way())
            print(f"  {name}: {taken[name][-1]:.1f} s", flush=True)
    base = min(taken["local overlay"])
    for name, values in taken.items():
        print(f"{name}: best {min(values):.1f} s of {shown(values)}; ratio {min(values) / base:.2f}", flush=True)


def shown(values: list[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


if __name__ == "__main__":
    main()
