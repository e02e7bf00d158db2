"""The chunks of a host: verified, bounded, fetched once, and as the store has them."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from darkroom import chunks, manifest, systems
from darkroom.catalog import images
from darkroom.chunks import ChunkInvalidError
from darkroom.compute import lazydisk, sealedfile
from darkroom.compute.chunkcache import ChunkCache, HostChunks
from darkroom.compute.lazydisk import ClosedError, LazyDisk
from darkroom.errors import DamagedError
from darkroom.reading import locator
from darkroom.store import StoreUnavailableError
from tests import operations


class Counted:
    """A store that counts what it is asked, waits where told, and can be down."""

    def __init__(self, store):
        self._store = store
        self.asked = []
        self.gate = threading.Event()
        self.gate.set()
        self.down = 0

    def get(self, key, offset=0, length=None):
        if "/packs/" in key:
            self.asked.append((key, offset))
            self.gate.wait(20)
        if self.down:
            self.down -= 1
            raise StoreUnavailableError("store")
        return self._store.get(key, offset, length)

    def size(self, key):
        return self._store.size(key)


@pytest.fixture(params=["", "gold"])
def opened(request, to, small_disk, tmp_path):
    image = images.get(to.catalog, operations.import_image(to, small_disk, key=request.param))
    store, cache = Counted(to.store), ChunkCache(tmp_path / "cache", 1 << 30)
    host = HostChunks(store, cache)
    made = []

    def disk():
        with to.catalog.transaction() as connection:
            digest = connection.execute("SELECT manifest_digest FROM disks").fetchone()["manifest_digest"]
        table = manifest.read(to.store, image["id"], 0, digest)
        made.append(LazyDisk(store, table, systems.data_key(to, image), host, locator(to.catalog, image["id"])))
        return made[-1]

    disk.store, disk.cache, disk.folder, disk.host = store, cache, tmp_path / "cache", host
    yield disk
    for each in made:
        each.close()


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_it_reads_what_was_imported_and_fetches_each_chunk_once_for_all_disks(opened, small_disk):
    first, second = opened(), opened()
    content = small_disk.read_bytes()

    with ThreadPoolExecutor(8) as pool:
        at = range(0, len(content), 100_000)
        parts = pool.map(lambda start: (first, second)[start % 2].read(start, min(100_000, len(content) - start)), at)
        assert b"".join(parts) == content

    assert second.read(0, second.size) == content
    assert len(opened.store.asked) == len(set(opened.store.asked)) == len(files(opened.folder))
    assert [(extent.start, extent.zero) for extent in first.extents(0, 1)]


def test_whoever_asks_for_a_chunk_that_is_on_its_way_waits_for_it(opened, small_disk):
    disk = opened()
    opened.store.gate.clear()
    last = disk.size - 100

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(disk.read, last, 100) for _ in range(4)]
        opened.store.gate.set()
        assert {future.result() for future in asked} == {small_disk.read_bytes()[-100:]}

    assert len(opened.store.asked) == 1


def test_what_is_damaged_on_the_host_is_fetched_again(opened, small_disk):
    opened().read(0, small_disk.stat().st_size)
    for path in files(opened.folder):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    opened.host._decoded.clear()
    before = len(opened.store.asked)

    assert opened().read(0, small_disk.stat().st_size) == small_disk.read_bytes()
    assert len(opened.store.asked) == before + len(files(opened.folder))


def test_the_cache_has_the_bytes_of_the_store_and_outlives_the_process(opened, to, small_disk):
    opened().read(0, small_disk.stat().st_size)
    packs = b"".join(to.store.get(key) for key, _ in to.store.list("scopes/") if "/packs/" in key)

    assert all(path.read_bytes() in packs for path in files(opened.folder))
    again = ChunkCache(opened.folder, 1 << 30)
    assert len(again._sizes) == len(files(opened.folder))


def test_the_cache_is_bounded_and_the_least_recently_read_goes_first(tmp_path):
    scope = chunks.Scope(images.UUID(int=1), encrypted=False)
    cache = ChunkCache(tmp_path / "cache", 1000)
    keys = [(scope.id, bytes([number]) * 32) for number in range(4)]
    for key in keys[:3]:
        cache.put(key, bytes(300))
    cache.get(keys[0])

    cache.put(keys[3], bytes(300))

    assert [cache.get(key) is not None for key in keys] == [True, False, True, True]
    assert sum(path.stat().st_size for path in files(tmp_path / "cache")) == 900
    for path in files(tmp_path / "cache"):
        path.unlink()  # somebody makes room
    assert cache.get(keys[0]) is None


def test_a_store_that_is_away_is_waited_for_and_a_closed_disk_is_not(opened, small_disk, monkeypatch):
    disk = opened()
    opened.store.down = 3
    assert disk.read(disk.size - 50, 50) == small_disk.read_bytes()[-50:]

    monkeypatch.setattr(lazydisk, "_PAUSES", (60.0,))
    opened.host._decoded.clear()
    for path in files(opened.folder):
        opened.cache.drop((images.UUID(path.parent.parent.name), bytes.fromhex(path.name)))
    opened.store.down = 10**6
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(disk.read, disk.size - 50, 50)
        disk._closed.wait(0.2)
        disk.close()
        with pytest.raises(ClosedError):
            waiting.result(10)


def test_a_damaged_object_is_an_error_and_never_wrong_bytes(opened, to, small_disk):
    real = opened.store._store.get

    def damaged(key, offset=0, length=None):
        data = bytearray(real(key, offset, length))
        data[-1] ^= 1
        return bytes(data)

    disk = opened()
    disk.read(0, 1)
    opened.store._store = type("Store", (), {"get": staticmethod(damaged)})

    with pytest.raises((ChunkInvalidError, DamagedError)):
        disk.read(disk.size - 50, 50)


def test_a_file_under_a_key_is_what_qemu_takes_for_one(tmp_path, qemu_img):
    path = tmp_path / "disk.qcow2"
    for size in (1 << 20, 100 << 30, 16 << 40):
        sealedfile.write(path, size, b"a key", "nbd+unix:///?socket=/nowhere")
        key = ("--object", "secret,id=key,data=a key")
        opened = f"driver=qcow2,encrypt.key-secret=key,backing=,file.filename={path}".replace("backing=,", "")
        shown = qemu_img("info", "-U", "--output=json", path)
        assert f'"virtual-size": {size}' in shown
        assert '"backing-filename": "nbd+unix:///?socket=/nowhere"' in shown
        assert '"backing-filename-format": "raw"' in shown
        sealedfile.write(path, size, b"a key", "")
        qemu_img("check", "-q", *key, "--image-opts", opened)
        assert '"cipher-mode": "xts"' in qemu_img("info", "--output=json", *key, "--image-opts", opened)
