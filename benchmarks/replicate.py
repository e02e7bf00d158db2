"""Replicate and re-key: whether the size of a disk matters, and a copy across scopes against `qemu-img convert`.

    python benchmarks/replicate.py [--rounds 5] [--data MIB]

By the domain's functions, without Prefect, in a folder of its own. The disks hold files of this machine (/usr): the
sparse ones in 256 places all over the disk, so that a disk of 1 TiB has 256 manifest pages with chunks, and one of
1 GiB a single page.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from darkroom import creation, importing, postgres, rekeying, replicating
from darkroom.settings import Settings
from darkroom.systems import Systems, open_systems

MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40
PLACES = 256


def quiet(_done: int, _total: int) -> None:
    pass


def import_(to: Systems, source: Path, name: str, key: str) -> None:
    image = importing.register(to, importing.ImportRequest(source=str(source), name=name, key=key))["image"]
    importing.validate(to, image, quiet)
    importing.probe(to, image)
    creation.create_data_key(to, image)
    importing.upload_disk(to, image, quiet)
    creation.activate(to, image)


def replicate(to: Systems, source: str, name: str, key: str) -> bool:
    """All steps of the flow; whether it shared the data."""
    request = replicating.ReplicateRequest(image=source, name=name, key=key)
    image = replicating.register(to, request)["image"]
    replicating.add_disks(to, image)
    creation.create_data_key(to, image)
    linked: bool = replicating.copy_disks(to, image, quiet)["linked"]
    if not linked:
        creation.read_back(to, image, quiet)
    creation.activate(to, image)
    return linked


def files(size: int) -> Iterator[bytes]:
    """So many bytes of the files below /usr, in blocks of 1 MiB."""
    with subprocess.Popen(
        ["tar", "-C", "/usr", "-c", "lib", "bin"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as tar:
        assert tar.stdout
        tar.stdout.read(100)  # else a disk that begins with it would be taken for an archive
        for _ in range(size // MIB):
            yield tar.stdout.read(MIB)
        tar.kill()


def write_disk(path: Path, size: int, data: int, places: int) -> None:
    step = size // places
    with open(path, "wb") as file:
        file.truncate(size)
        for number, block in enumerate(files(data)):
            file.seek(number * step if places > 1 else number * MIB)
            file.write(block)


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds by the clock, and of processors, its own and those of programs that it ran."""

    wall: float
    cpu: float


def cost(work: Callable[[], Any]) -> Cost:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    started, busy = time.perf_counter(), time.process_time()
    work()
    wall, busy = time.perf_counter() - started, time.process_time() - busy
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(wall, busy + after.ru_utime + after.ru_stime - children.ru_utime - children.ru_stime)


def median(costs: Sequence[Cost]) -> Cost:
    return Cost(statistics.median(each.wall for each in costs), statistics.median(each.cpu for each in costs))


def sizes(to: Systems, folder: Path, rounds: int) -> None:
    """Both sizes in turn."""
    found: dict[tuple[str, str], list[Cost]] = {}
    for name, size in (("small", GIB), ("large", TIB)):
        write_disk(folder / name, size, PLACES * MIB, PLACES)
        import_(to, folder / name, name, "gold")
        assert replicate(to, name, f"{name}-warm", "gold")
    for number in range(rounds):
        for name in ("small", "large"):
            copied = cost(lambda name=name, number=number: replicate(to, name, f"{name}-{number}", "gold"))
            found.setdefault(("replicate", name), []).append(copied)
    for number in range(rounds):
        for name in ("small", "large"):
            key = ("silver", "gold")[number % 2]
            moved = cost(lambda name=name, key=key: rekeying.rekey(to, name, key))
            found.setdefault(("rekey", name), []).append(moved)
    for what in ("replicate", "rekey"):
        small, large = median(found[what, "small"]), median(found[what, "large"])
        print(
            f"{what:12} 1 GiB {small.wall:.3f} s, 1 TiB {large.wall:.3f} s, ratio {large.wall / small.wall:.2f}"
            f" (to reach: 1.5; of processor time {large.cpu / small.cpu:.2f})"
        )


def across(to: Systems, folder: Path, rounds: int, data: int) -> None:
    """From key to key, in turn with qemu-img, which reads a zstd qcow2 and writes another."""
    write_disk(folder / "data.raw", data, data, 1)
    import_(to, folder / "data.raw", "data", "gold")
    convert = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", folder / "data.raw", folder / "data.qcow2"]
    zstd = ["-c", "-o", "compression_type=zstd", "-m", "16", "-W"]
    subprocess.run([*convert[:4], *zstd, *convert[4:]], check=True)
    again = ["qemu-img", "convert", "-f", "qcow2", "-O", "qcow2"]
    ours, peers = [], {"zstd, -m 16 -W": (zstd, []), "uncompressed": ([], [])}
    for number in range(rounds):
        to.keys.create(f"k{number}")
        ours.append(cost(lambda number=number: replicate(to, "data", f"data-{number}", f"k{number}")))
        for options, costs in peers.values():
            command = [*again, *options, folder / "data.qcow2", folder / "out.qcow2"]
            costs.append(cost(lambda command=command: subprocess.run(command, check=True)))
            (folder / "out.qcow2").unlink()
    mine = median(ours)
    print(f"across keys  {data // MIB} MiB in {mine.wall:.2f} s, of processors {mine.cpu:.2f} s")
    for name, (_, costs) in peers.items():
        peer = median(costs)
        print(
            f"  against qemu-img convert, {name}: {peer.wall:.2f} s, of processors {peer.cpu:.2f} s,"
            f" ratios {mine.wall / peer.wall:.2f}, {mine.cpu / peer.cpu:.2f}"
        )


@contextmanager
def own_home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="dk-bench-", dir=os.environ.get("TMPDIR", "/var/tmp")))
    os.environ["DARKROOM_HOME"] = str(folder / "home")
    try:
        yield folder
    finally:
        postgres.stop(folder / "home" / "catalog")
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=int, default=1024, metavar="MIB")
    options = parser.parse_args()
    with own_home() as folder, open_systems(Settings()) as to:
        for key in ("gold", "silver"):
            to.keys.create(key)
        sizes(to, folder, options.rounds)
        across(to, folder, max(1, options.rounds // 2), options.data * MIB)


if __name__ == "__main__":
    main()
