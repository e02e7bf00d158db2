"""The object store goes away while a guest reads its disk from it, and comes back; the guest must notice nothing.

    python benchmarks/outage.py [SECONDS ...]        by default 60; needs root, libvirt and QEMU

The store is killed when the guest has read some of its disk. The guest sums all of its disk, again and again, and
would write an E for an error of the disk; the sum must be that of the image.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.provision import machine
from darkroom import servers
from darkroom.compute import connection, domain, keeping
from darkroom.store import s3
from darkroom.systems import Systems
from tests import computing
from tests.conftest import make_disk
from tests.servers import CREDENTIALS, S3Server, s3_server

MIB = 1 << 20
_SOME = 10
"""Chunks that are there when the store goes."""


def main(outages: list[float]) -> None:
    """Print what became of each."""
    folder = Path("build/bench").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir="/tmp") as temporary, s3_server(Path(temporary)) as store:
        os.environ.update(AWS_ACCESS_KEY_ID=CREDENTIALS[0], AWS_SECRET_ACCESS_KEY=CREDENTIALS[1])
        os.environ.update(AWS_DEFAULT_REGION="us-east-1", DARKROOM_S3_ENDPOINT_URL=store.url)
        os.environ["DARKROOM_STORE_URL"] = "s3://outage/images"
        s3.new_client(store.url).create_bucket(Bucket="outage")
        for seconds in outages:
            with machine(folder) as (to, host):
                expected = computing.image_of(to, make_disk(Path(temporary) / "disk.raw", 64 * MIB), key="gold")
                print(f"store away for {seconds:.0f} s: {outage(to, host, store, expected, seconds)}", flush=True)


def outage(to: Systems, host, store: S3Server, expected: str, seconds: float) -> str:
    """What the guest went through."""
    server = computing.create(to)
    assert domain.wait(lambda: keeping.ask(host, "status")["gets"] >= _SOME, 60)
    store.kill()
    began = time.monotonic()
    states: dict[str, float] = {}
    try:
        while (passed := time.monotonic() - began) < seconds:
            with connection.open(host.uri) as libvirt:
                states.setdefault(" ".join(domain.state(libvirt, server["id"])).strip(), passed)
            assert computing.sums(host, server) == []
            time.sleep(0.5)
    finally:
        store.start()
    back = time.monotonic()
    said = computing.says(host, server)
    assert said == {expected}, said
    waited = time.monotonic() - back
    computing.becomes_whole(to, host)
    servers.delete(to, server["id"])
    seen = ", ".join(f"{state} after {passed:.0f} s" for state, passed in states.items())
    return f"guest {seen}; its sum, which is right, {waited:.0f} s after the store was back"


if __name__ == "__main__":
    main([float(word) for word in sys.argv[1:]] or [60.0])
