"""The command line as a user has it: output, exit codes, one line for an error, and a kill in the middle."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from tests.conftest import make_disk

DARKROOM = str(Path(sys.executable).with_name("darkroom"))


@pytest.fixture
def darkroom(catalog_url, prefect_folder, prefect_password, home, monkeypatch):
    """Run `darkroom` in a fresh home; the exit code, standard output, and standard error."""
    from darkroom import prefect_server

    monkeypatch.setenv("PREFECT_API_URL", prefect_server.ensure(prefect_folder))

    def run(*arguments, code=0):
        command = [DARKROOM, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == code, done.stderr
        return done

    run("key", "create", "gold")
    return run


def test_import_list_show_export_check(darkroom, raw_disk, tmp_path, qemu_img):
    qemu_img("convert", "-f", "raw", "-O", "qcow2", raw_disk, tmp_path / "disk.qcow2")
    options = ("--os-type", "Linux", "--tag", "team=web", "--min-ram", "512", "--description", "a web server")
    image = darkroom("import", tmp_path / "disk.qcow2", "--name", "web-1", "--key", "gold", *options).stdout.strip()

    listed = json.loads(darkroom("list", "--json").stdout)
    assert [(row["id"], row["name"], row["status"]) for row in listed] == [(image, "web-1", "active")]
    assert "web-1" in darkroom("list").stdout
    for reference in (image, image[:8], "web-1"):
        shown = json.loads(darkroom("show", reference, "--json").stdout)
        assert (shown["tags"], shown["properties"]["min_ram"], shown["encrypted"]) == ({"team": "web"}, 512, True)
    target = tmp_path / "out.vmdk"
    assert darkroom("export", "web-1", target, "--format", "vmdk").stdout.strip() == str(target)
    assert "identical" in qemu_img("compare", "-f", "qcow2", "-F", "vmdk", tmp_path / "disk.qcow2", target)
    subprocess.run(["sha256sum", "-c", "--quiet", f"{target}.sha256"], check=True, cwd=tmp_path)
    assert "well" in darkroom("check", "web-1").stdout
    assert darkroom("status").stdout.count("well") == 3


def test_json_is_one_object_and_the_id_comes_last(darkroom, raw_disk):
    result = json.loads(darkroom("import", raw_disk, "--name", "a", "--json").stdout)

    assert result["status"] == "active"
    assert result["virtual_size"] == raw_disk.stat().st_size
    assert darkroom("import", raw_disk, "--name", "a").stdout.splitlines()[-1] == result["image"]


def test_rekey_and_the_old_key_is_not_needed_any_more(darkroom, raw_disk, home, tmp_path):
    darkroom("key", "create", "silver")
    image = darkroom("import", raw_disk, "--name", "a", "--key", "gold").stdout.strip()

    assert darkroom("rekey", "a", "--key", "silver").stdout.strip() == image
    keys = json.loads((home / "keys.json").read_text())
    del keys["projects"]["default"]["gold"]
    (home / "keys.json").write_text(json.dumps(keys))
    darkroom("export", "a", tmp_path / "out.raw", "--format", "raw")

    assert json.loads(darkroom("show", "a", "--json").stdout)["key"] == "silver"
    assert (tmp_path / "out.raw").read_bytes() == raw_disk.read_bytes()
    assert "key-not-found" in darkroom("rekey", "a", "--key", "bronze", code=4).stderr


def test_a_key_is_disabled_enabled_and_rotated_and_an_image_copied_to_another(darkroom, raw_disk):
    darkroom("key", "create", "silver")
    image = darkroom("import", raw_disk, "--name", "a", "--key", "gold").stdout.strip()
    assert darkroom("key", "disable", "gold").stdout == "gold\n"
    assert "key-disabled: gold" in darkroom("replicate", "a", "--name", "b", "--plain", code=3).stderr
    states = {key["name"]: key["state"] for key in json.loads(darkroom("key", "list", "--json").stdout)}
    assert states == {"gold": "disabled", "silver": "enabled"}

    darkroom("key", "enable", "gold")
    assert json.loads(darkroom("key", "rotate", "gold", "--json").stdout)["version"] == "2"
    copy = json.loads(darkroom("replicate", "a", "--name", "b", "--key", "silver", "--json").stdout)

    shown = json.loads(darkroom("show", "b", "--json").stdout)
    assert (shown["id"], shown["key"]) == (copy["image"], "silver")
    assert shown["properties"]["replicated_from"] == image
    assert shown["content_digest"] == json.loads(darkroom("show", "a", "--json").stdout)["content_digest"]


def test_each_project_sees_its_own_images_alone(darkroom, raw_disk):
    assert darkroom("project", "create", "acme").stdout == "acme\n"
    mine = darkroom("import", raw_disk, "--name", "a").stdout.strip()
    theirs = darkroom("import", raw_disk, "--name", "a", "--project", "acme").stdout.strip()

    assert mine != theirs
    for project, image, other in (("default", mine, theirs), ("acme", theirs, mine)):
        rows = json.loads(darkroom("list", "--json", "--project", project).stdout)
        assert [row["id"] for row in rows] == [image]
        unknown = darkroom("show", other, "--project", project, code=4).stderr
        never = darkroom("show", "0" * 8 + other[8:], "--project", project, code=4).stderr
        assert unknown.replace(other, "") == never.replace("0" * 8 + other[8:], "")
    projects = json.loads(darkroom("project", "list", "--json").stdout)
    assert [(row["name"], row["images"]) for row in projects] == [("acme", 1), ("default", 1)]
    assert projects[0]["stored_size"] == projects[1]["stored_size"] > 0
    assert "project-exists" in darkroom("project", "create", "acme", code=5).stderr
    assert "project-not-found" in darkroom("list", "--project", "nobody", code=4).stderr


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["import"], 2, "usage"),
        (["frobnicate"], 2, "usage"),
        (["import", "{disk}", "--name", " x"], 3, "name-invalid"),
        (["import", "{disk}", "--name", "x", "--format", "qcow2"], 3, "format-mismatch"),
        (["import", "{disk}", "--name", "x", "--digest", "sha256:" + "0" * 64], 3, "digest-mismatch"),
        (["import", "{hostile}", "--name", "x"], 3, "external-reference"),
        (["import", "/no/such/file", "--name", "x"], 4, "source-not-found"),
        (["import", "{disk}", "--name", "x", "--key", "nokey"], 4, "key-not-found"),
        (["show", "nothing"], 4, "image-not-found"),
        (["export", "nothing", "/tmp/x"], 4, "image-not-found"),
        (["key", "create", "gold"], 5, "key-exists"),
    ],
)
def test_errors_are_one_line_with_a_stable_code_and_exit_code(darkroom, raw_disk, tmp_path, arguments, code, word):
    hostile = tmp_path / "h.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", hostile, "1M"], check=True)
    subprocess.run(["qemu-img", "rebase", "-u", "-b", "/etc/passwd", "-F", "raw", hostile], check=True)
    places = {"disk": raw_disk, "hostile": hostile}
    done = darkroom(*(argument.format(**places) for argument in arguments), code=code)

    assert word in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    if code != 2:
        assert len(done.stderr.strip().splitlines()) == 1
        assert done.stderr.startswith("darkroom: ")
    assert json.loads(darkroom("list", "--json").stdout) == [] or "x" in {
        row["name"] for row in json.loads(darkroom("list", "--json").stdout) if row["status"] == "killed"
    }


def test_a_taken_name_is_a_conflict(darkroom, raw_disk, tmp_path):
    darkroom("import", raw_disk, "--name", "x")
    done = darkroom("import", make_disk(tmp_path / "other.raw", seed=4), "--name", "x", code=5)

    assert "name-taken" in done.stderr


def test_a_catalog_that_is_down_is_exit_code_6(darkroom, monkeypatch):
    monkeypatch.setenv("DARKROOM_CATALOG_URL", "host=/nowhere dbname=x")

    assert "catalog-unavailable" in darkroom("list", code=6).stderr
    assert "DOWN" in darkroom("status", code=6).stdout


def test_damage_is_exit_code_1_with_findings(darkroom, raw_disk, home):
    darkroom("import", raw_disk, "--name", "x")
    pack = next((home / "store" / "scopes").glob("*/packs/*/*"))
    os.truncate(pack, 100)

    done = darkroom("check", code=1)
    assert "findings" in done.stdout
    assert json.loads(darkroom("check", "--json", code=1).stdout)[0]["findings"]


@pytest.mark.parametrize("seconds", [1.5, 2.5, 3.0])
def test_a_killed_command_run_again_finishes(darkroom, tmp_path, seconds, home):
    disk = make_disk(tmp_path / "disk.raw", size=256 << 20, seed=6)
    arguments = ["import", str(disk), "--name", "x", "--key", "gold", "--json"]
    child = subprocess.Popen([DARKROOM, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(seconds)
    child.send_signal(signal.SIGKILL)
    child.wait()

    result = json.loads(darkroom(*arguments).stdout)
    darkroom("export", "x", tmp_path / "out.raw", "--format", "raw")
    assert (tmp_path / "out.raw").read_bytes() == disk.read_bytes()
    assert [row["id"] for row in json.loads(darkroom("list", "--json").stdout)] == [result["image"]]


def test_delete_restore_purge_and_their_results(darkroom, raw_disk):
    ids = [darkroom("import", raw_disk, "--name", name).stdout.strip() for name in ("a", "b")]

    done = darkroom("delete", "a", "nowhere", "b", code=1)
    assert done.stdout.split() == ids
    assert "a: deleted; it can be restored until 2" in done.stderr
    assert "image-not-found: nowhere" in done.stderr
    assert darkroom("delete", "nowhere", code=4).stdout == ""
    assert darkroom("restore", "a", "--name", "c").stdout.strip() == ids[0]
    assert [row["name"] for row in json.loads(darkroom("list", "--json").stdout)] == ["c"]
    assert json.loads(darkroom("purge", "b", "--json").stdout)[0]["outcome"] == "purged"
    assert darkroom("purge").stdout == ""
    assert darkroom("restore", "b", code=4).stdout == ""
    assert darkroom("cancel", "c", code=5).stderr.startswith("darkroom: status: ")


def test_collect_and_rebuild_the_catalog(darkroom, raw_disk, catalog_url):
    image = darkroom("import", raw_disk, "--name", "a", "--key", "gold", "--tag", "team=web").stdout.strip()
    result = json.loads(darkroom("collect", "--dry-run", "--json").stdout)
    assert (result["freed_size"], result["damaged"]) == (0, [])
    with psycopg.connect(catalog_url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA darkroom CASCADE")

    assert darkroom("collect", code=5).stderr.startswith("darkroom: catalog-behind: ")
    assert darkroom("rebuild-catalog").stdout == "1\n"
    assert json.loads(darkroom("show", image, "--json").stdout)["tags"] == {"team": "web"}
    assert "well" in darkroom("check", "a").stdout
