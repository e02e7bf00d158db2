"""Cancelling runs from Prefect in each of their steps: cleaned up soon, and the next run works."""

import signal
import subprocess
import time

import psycopg
import pytest

from darkroom import postgres
from tests import guests, hosts
from tests.conftest import make_disk
from tests.service import DARKROOM, images, running

STEPS = {
    "register": "BEFORE INSERT ON images FOR EACH ROW",
    "validate": "BEFORE INSERT ON disks FOR EACH ROW",
    "convert": "BEFORE UPDATE OF partitions ON disks FOR EACH ROW",
    "encrypt": "BEFORE INSERT ON wraps FOR EACH ROW",
    "upload": "BEFORE INSERT ON runs FOR EACH ROW",
    "read back": "BEFORE UPDATE ON leases FOR EACH ROW WHEN (darkroom.uploaded(OLD.image_id))",
    "activate": "BEFORE UPDATE OF status ON images FOR EACH ROW WHEN (NEW.status = 'active')",
}
"""Where each step can be held: at something that it alone writes."""
SERVER_STEPS = {
    "provide": "BEFORE UPDATE OF status ON server_disks FOR EACH ROW",
    "boot": "BEFORE UPDATE OF ready_at ON servers FOR EACH ROW",
}
HOLD = """
    CREATE FUNCTION darkroom.hold() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
        $$ BEGIN PERFORM pg_sleep(600); RETURN NEW; END $$;
    CREATE FUNCTION darkroom.uploaded(image uuid) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER
        RETURN (SELECT content_digest IS NOT NULL FROM darkroom.images WHERE id = image)"""


@pytest.fixture
def service(home):
    with running(home) as service:
        yield service


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def cancel_at(service, operator, moment, request, flow="import-image"):
    """Hold a run at this moment, cancel it, and see that nothing of it runs on."""
    operator.execute(f"CREATE TRIGGER hold {moment} EXECUTE FUNCTION hold()")
    run = service.run(flow, **request)
    held = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    wait_for(lambda: operator.execute(held).fetchone()[0] > 0)

    began = time.monotonic()
    service.ask(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
    service.state(run, "CRASHED", "CANCELLED")  # the first is how a process that is told to end leaves it
    # The server does not see before the end of its sleep that its client has gone; what undoes the run would wait.
    operator.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
    service.state(run, "CANCELLED")
    wait_for(lambda: not [line for line in service.processes() if run in line or "qemu" in line], 30)
    assert time.monotonic() - began < 120, moment
    operator.execute(f"DROP TRIGGER hold ON {moment.partition(' ON ')[2].split()[0]}")


@pytest.mark.timeout(600)
def test_an_import_is_cancelled_in_each_step_and_the_next_one_works(service, tmp_path):
    disk = make_disk(tmp_path / "disk.raw")
    subprocess.run([DARKROOM, "key", "create", "gold"], check=True)
    service.up()
    request = {"source": str(disk), "name": "web-1", "key": "gold"}
    with psycopg.connect(postgres.ensure(service.home / "catalog"), autocommit=True) as operator:
        operator.execute("SET search_path = darkroom")
        operator.execute(HOLD)
        for step, moment in STEPS.items():
            cancel_at(service, operator, moment, request)
            assert images().get("web-1") != "active", step

        service.state(service.run("import-image", **request), "COMPLETED")
        assert images() == {"web-1": "active"}
        spool = service.home / "spool"
        assert not spool.exists() or list(spool.iterdir()) == []
    assert service.end(signal.SIGTERM) == 0


@pytest.mark.timeout(600)
def test_the_creation_of_a_server_is_cancelled_leaving_nothing_and_the_next_one_works(service, tmp_path, libvirt_uri):
    disk, storage = guests.bootable(make_disk(tmp_path / "disk.raw", 2 << 20), endless=True), service.home / "host"
    add = ("host", "add", "kvm1", "--uri", libvirt_uri, "--storage", storage)
    for words in (add, ("key", "create", "gold")):
        subprocess.run([DARKROOM, *words], check=True)
    service.up()
    service.state(service.run("import-image", source=str(disk), name="one", key="gold"), "COMPLETED")
    request = {"image": "one", "name": "web-1", "memory": 64}
    with psycopg.connect(postgres.ensure(service.home / "catalog"), autocommit=True) as operator:
        operator.execute("SET search_path = darkroom")
        operator.execute(HOLD)

        def left() -> list[object]:
            query = "SELECT FROM servers UNION ALL SELECT FROM server_disks UNION ALL SELECT FROM holds"
            rows = operator.execute(query)
            files = [path for name in ("disks", "servers") for path in (storage / name).iterdir()]
            return [*rows.fetchall(), *files, *hosts.domains(libvirt_uri)]

        for moment in SERVER_STEPS.values():
            cancel_at(service, operator, moment, request, "create-server")
            wait_for(lambda: not left())

        service.state(service.run("create-server", **request), "COMPLETED")
        assert len(hosts.domains(libvirt_uri)) == 1
        service.state(service.run("delete-server", server="web-1"), "COMPLETED")
        assert left() == []
    assert service.end(signal.SIGTERM) == 0
