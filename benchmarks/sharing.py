"""Share, accept, reject and unshare in the domain's calls, for an image of 1 GiB and a sparse one of 1 TiB.

    python benchmarks/sharing.py

They concern rows and wraps alone, so the size of the image must not matter: the last column compares the two. The goal
of each is 0.1 s.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from darkroom import inbox, postgres, sharing
from darkroom.catalog import Catalog, create_project
from darkroom.model import GiB, MiB, TiB
from darkroom.settings import Settings
from darkroom.systems import Systems, catalog_dsn, open_systems
from tests import operations

ROUNDS = 15
GOAL = 0.1
SIZES = {"1 GiB": GiB, "1 TiB": TiB}


def main() -> None:
    """Print the medians."""
    with tempfile.TemporaryDirectory(prefix="dk-", dir="/tmp") as folder:
        os.environ["DARKROOM_HOME"] = folder
        try:
            measure(Path(folder))
        finally:
            postgres.stop(Path(folder) / "catalog")


def measure(folder: Path) -> None:
    """Two projects, an encrypted image of each size, and rounds of all operations on each."""
    with Catalog(catalog_dsn(Settings()), None) as operator, operator.transaction() as connection:
        create_project(connection, "acme")
    with open_systems(Settings()) as owner, open_systems(Settings(project="acme")) as member:
        owner.keys.create("gold")
        member.keys.create("steel")
        inbox.move(member.catalog, member.keys, "steel")
        times = {name: rounds(owner, member, imported(owner, folder, name)) for name in SIZES}
    print(f"{'':<10}{'1 GiB':>10}{'1 TiB':>10}{'ratio':>8}   goal {GOAL} s")
    for operation in times["1 GiB"]:
        small, large = times["1 GiB"][operation], times["1 TiB"][operation]
        print(f"{operation:<10}{small * 1000:>7.1f} ms{large * 1000:>7.1f} ms{large / small:>8.2f}")


def imported(to: Systems, folder: Path, name: str) -> str:
    """An image with 64 MiB of data; the rest are holes."""
    disk = folder / "disk.raw"
    with open(disk, "wb") as file:
        file.truncate(SIZES[name])
        file.write(os.urandom(64 * MiB))
    image = operations.import_image(to, disk, name=name, key="gold", type="data", format="raw")
    disk.unlink()
    return image


def rounds(owner: Systems, member: Systems, image: str) -> dict[str, float]:
    """The median seconds of each operation."""
    operations: dict[str, Callable[[], object]] = {
        "share": lambda: sharing.share(owner, image, "acme"),
        "accept": lambda: sharing.accept(member, image),
        "reject": lambda: sharing.reject(member, image),
        "unshare": lambda: sharing.unshare(owner, image, "acme"),
    }
    taken: dict[str, list[float]] = {name: [] for name in operations}
    for _ in range(ROUNDS):
        for name, operation in operations.items():
            began = time.perf_counter()
            operation()
            taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


if __name__ == "__main__":
    main()
