import itertools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import psycopg
import pytest

from darkroom import audit, passwords, postgres, prefect_server, store, systems
from darkroom.catalog import Catalog
from darkroom.settings import Settings
from darkroom.store import s3
from demo import disk
from tests import computing, hosts, servers

_numbers = itertools.count()

os.environ.update(prefect_server.QUIET)  # before any test imports Prefect


@pytest.fixture(scope="session")
def short_folder():
    """A folder with a short name: names of unix sockets hold 108 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="dk-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def catalog_server(short_folder):
    """The DSN of an embedded server that the whole run shares."""
    folder = short_folder / "catalog"
    yield postgres.ensure(folder)
    postgres.stop(folder)
    assert not postgres.status(folder)["running"]


@pytest.fixture(autouse=True)
def home(monkeypatch, short_folder):
    """A fresh DARKROOM_HOME, and no configuration from outside."""
    for name in list(os.environ):
        if name.startswith(("DARKROOM_", "AWS_", "PREFECT_")):
            monkeypatch.delenv(name)
    audit.operation.set("")
    folder = short_folder / f"h{next(_numbers)}"
    monkeypatch.setenv("DARKROOM_HOME", str(folder))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def catalog_url(catalog_server, monkeypatch):
    """The DSN of a fresh database."""
    name = f"test{next(_numbers)}"
    with psycopg.connect(catalog_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    dsn = catalog_server.replace("dbname=postgres", f"dbname={name}")
    monkeypatch.setenv("DARKROOM_CATALOG_URL", dsn)
    yield dsn
    with psycopg.connect(catalog_server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def shared_to(catalog_server, tmp_path_factory):
    """Systems that the tests of one file share: for those that need rows of their own, and no data behind them."""
    name = f"shared{next(_numbers)}"
    with psycopg.connect(catalog_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    dsn = catalog_server.replace("dbname=postgres", f"dbname={name}")
    with systems.open_systems(Settings(home=tmp_path_factory.mktemp("home"), catalog_url=dsn)) as found:
        yield found
    with psycopg.connect(catalog_server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def to(catalog_url, home):
    """Systems of a fresh home: catalog, directory store, a key file with the key `gold`."""
    with systems.open_systems(Settings()) as found:
        found.keys.create("gold")
        yield found


@pytest.fixture(scope="session")
def prefect_folder(short_folder):
    """The folder of an embedded Prefect server that the whole run shares; its first start takes ten seconds."""
    folder = short_folder / "prefect"
    prefect_server.ensure(folder)
    yield folder
    prefect_server.stop(folder)
    assert not prefect_server.status(folder)["running"]


@pytest.fixture
def prefect_password(prefect_folder, monkeypatch):
    """Its password, for this process and those that it starts with PREFECT_API_URL set."""
    password = passwords.kept(prefect_folder)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", password)
    return password


@pytest.fixture
def prefect_api(prefect_folder, prefect_password, home):
    """The API of that server, to which the flows that a test runs in this process report."""
    from prefect.settings import (
        PREFECT_API_AUTH_STRING,
        PREFECT_API_URL,
        PREFECT_HOME,
        PREFECT_LOGGING_TO_API_ENABLED,
        temporary_settings,
    )

    url = prefect_server.ensure(prefect_folder)
    settings = {
        PREFECT_API_URL: url,
        PREFECT_API_AUTH_STRING: prefect_password,
        PREFECT_HOME: home / "prefect-client",
        PREFECT_LOGGING_TO_API_ENABLED: False,
    }
    with temporary_settings(settings):
        yield url


@pytest.fixture(scope="session")
def libvirt_uri(short_folder):
    """The URI of a private libvirt that the whole run shares."""
    with hosts.libvirtd(short_folder / "libvirt", Path("build/libvirt").absolute()) as uri:
        yield uri


@pytest.fixture
def host(libvirt_uri, catalog_url, short_folder):
    """The private libvirt, as the one compute host of the catalog, open to `default`; nothing is left on it."""
    from darkroom.compute import connection
    from darkroom.compute.hosts import Host, add

    storage = short_folder / f"host{next(_numbers)}"
    with Catalog(catalog_url, None) as operator:
        add(operator, Host("kvm1", libvirt_uri, storage, "tcg", 1 << 30, ("default",)))
    with connection.open(libvirt_uri) as found:
        yield found
    assert not [path for path in (storage / "run").glob("*") if path.name.startswith(("capture-", "proof-"))]
    assert hosts.domains(libvirt_uri) == []
    shutil.rmtree(storage, ignore_errors=True)


@pytest.fixture
def compute_host(to, catalog_url, libvirt_uri, home):
    """A compute host in the catalog; at the end nothing of its servers may be left."""
    with computing.host(to, catalog_url, libvirt_uri, home / "host") as found:
        yield found


@pytest.fixture(scope="session")
def demo_disk(tmp_path_factory):
    """A raw disk with a small Linux that boots to `demo.disk.MARKER` on its serial port; not to be written."""
    path = tmp_path_factory.mktemp("demo") / "disk.raw"
    disk.build(path, Path("build/packages").absolute())
    return path


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory):
    with servers.s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def shared_bucket(s3_server):
    """The name of a bucket for all tests that keep to a prefix of their own: a bucket takes 0.4 s to make."""
    s3.new_client(s3_server.url, servers.CREDENTIALS).create_bucket(Bucket="shared")
    return "shared"


@pytest.fixture
def s3_environment(s3_server, monkeypatch):
    """The environment set for the server."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", servers.CREDENTIALS[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", servers.CREDENTIALS[1])
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("DARKROOM_S3_ENDPOINT_URL", s3_server.url)


@pytest.fixture
def bucket(s3_server, s3_environment):
    """The name of a fresh bucket, with the environment set for it."""
    name = f"bucket-{next(_numbers)}"
    s3.new_client(s3_server.url).create_bucket(Bucket=name)
    return name


@pytest.fixture(params=["directory", "s3"])
def any_store(request, home):
    """Each implementation of the object store."""
    if request.param == "directory":
        return store.open_store(str(home / "store"), Settings())
    request.getfixturevalue("s3_environment")
    return store.open_store(f"s3://{request.getfixturevalue('shared_bucket')}/any/{next(_numbers)}", Settings())


@pytest.fixture(params=["local", "kms"])
def key_manager(request, home):
    """Each key manager, with the key `gold`."""
    if request.param == "kms":
        request.getfixturevalue("kms")
    manager = systems.open_key_manager(Settings(project="default"))
    manager.create("gold")
    return manager


@pytest.fixture
def to_kms(kms, catalog_url, home):
    """Systems of a fresh home with KMS as the key manager, and the key `gold`."""
    with systems.open_systems(Settings()) as found:
        found.keys.create("gold")
        yield found


@pytest.fixture(scope="session")
def kms_server():
    with servers.kms_server() as server:
        yield server


@pytest.fixture
def kms(kms_server, monkeypatch):
    """The KMS server, without keys, and the environment set for it."""
    kms_server.rule(reset=True)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", servers.CREDENTIALS[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", servers.CREDENTIALS[1])
    monkeypatch.setenv("DARKROOM_KMS_ENDPOINT_URL", kms_server.url)
    monkeypatch.setenv("DARKROOM_KEYS_URL", f"aws-kms://{servers.KMS_REGION}")
    return kms_server


@pytest.fixture
def qemu_img():
    def run(*arguments) -> str:
        done = subprocess.run(["qemu-img", *map(str, arguments)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    return run


@pytest.fixture
def raw_disk(tmp_path):
    """A 40 MiB disk with zeros, text and random bytes, and a short last chunk."""
    return make_disk(tmp_path / "disk.raw")


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 4 MiB, which `guests.bootable` makes boot."""
    return make_disk(tmp_path / "small.raw", 4 << 20)


def make_disk(path: Path, size: int = 40 * (1 << 20) + 300 * 1024, seed: int = 1) -> Path:
    import random

    source = random.Random(seed)
    with open(path, "wb") as file:
        file.truncate(size)
        for _ in range(size >> 22):
            file.seek(source.randrange(size >> 12) << 12)
            kind = source.choice(("text", "random", "zero"))
            length = min(source.randrange(1, 1 << 20), size - file.tell())
            data = {"text": b"a line of text\n" * (1 << 17), "random": source.randbytes(length), "zero": bytes(length)}
            file.write(data[kind][:length])
        file.seek(size - 100)
        file.write(b"the very end" * 8)
    return path


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """In CI a skip is a failure, unless its reason says that it was expected."""
    report = (yield).get_result()
    if report.skipped and os.environ.get("CI") and "expected:" not in str(report.longrepr):
        report.outcome = "failed"
