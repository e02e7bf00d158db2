"""The table of a migration and its report: what they may be, where their sources lie, and that neither does harm."""

import csv
import os
import subprocess

import pytest

from darkroom.migration import batch, report
from darkroom.migration.report import ReportTableError
from darkroom.migration.table import TableInvalidError, parse
from darkroom.settings import Settings
from darkroom.sources import SourceMissingError
from darkroom.store import s3
from darkroom.systems import open_systems
from tests import webserver
from tests.test_migrate import DARKROOM, images, write

ELSEWHERE = ("s3://bucket/dir", "https://host.example/dir")


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("source,name\n/a,x\n/b,x\n", "row 3, column name: row 2 has 'x' too"),
        ("source,name,naem\n/a,x,y\n", "row 1, column naem: there is no such column"),
        ("source\n/a\n", "row 1, column name: it is missing"),
        ("source,name,name\n/a,x,y\n", "row 1, column name: it is there more than once"),
        ("source,name\n", "row 2: there are no rows"),
        ("", "row 1, column source: it is missing"),
        ("source,name\n/a,x,y\n", "row 2, behind the last column: 3 cells in 2 columns"),
        ('source,name\n"/a,x\n', "line 2: "),
        ("source,name,min_disk,type\n/a,x,1500,system\n", "row 2, column min_disk: min-disk-invalid: "),
    ],
)
def test_what_a_table_must_not_be(text, finding):
    with pytest.raises(TableInvalidError) as caught:
        parse(text, "t.csv", "")

    assert finding in caught.value.found


def test_a_spreadsheets_table_is_read(tmp_path):
    text = "\ufeffsource;name;quick;min_ram;tag:team\r\n\r\ndisk one.raw;web 1;yes;512;a\r\n/two.raw;web-2;;;\r\n"

    found = parse(text, "t.csv", "/disks")

    assert list(found) == [3, 4]
    assert (found[3].source, found[3].name, found[3].quick, found[3].min_ram) == (
        "/disks/disk one.raw",
        "web 1",
        True,
        512,
    )
    assert (found[3].tags, found[4].tags, found[4].source) == ({"team": "a"}, {}, "/two.raw")


@pytest.mark.parametrize("folder", ELSEWHERE)
@pytest.mark.parametrize(
    "source",
    ["/etc/shadow", "//host/share", "file:///etc/shadow", "FILE:///etc/shadow", "nbd+unix:///?socket=/run/nbd"],
)
def test_a_table_from_elsewhere_names_nothing_of_this_machine(folder, source):
    with pytest.raises(TableInvalidError) as caught:
        parse(f"source,name\na.raw,a\n{source},b\n", "t.csv", folder)

    assert caught.value.found.startswith("row 3, column source: cell-invalid: ")
    assert len(caught.value.found.splitlines()) == 1


@pytest.mark.parametrize(
    ("folder", "source", "found"),
    [
        ("/srv", "disks/a.vmdk", "/srv/disks/a.vmdk"),
        ("/srv", "/etc/a.vmdk", "/etc/a.vmdk"),
        ("s3://bucket/dir", "disks/a.vmdk", "s3://bucket/dir/disks/a.vmdk"),
        ("s3://bucket/dir", "./a b.vmdk", "s3://bucket/dir/a b.vmdk"),
        ("s3://bucket/dir", "../a.vmdk", "s3://bucket/a.vmdk"),
        ("s3://bucket/dir", "../../../a.vmdk", "s3://bucket/a.vmdk"),
        ("s3://bucket", "a.vmdk", "s3://bucket/a.vmdk"),
        ("https://host/dir", "disks/a b#1.vmdk", "https://host/dir/disks/a%20b%231.vmdk"),
        ("https://host/dir", "../a.vmdk", "https://host/a.vmdk"),
        ("https://host/dir", "s3://bucket/a.vmdk", "s3://bucket/a.vmdk"),
    ],
)
def test_a_path_is_relative_to_where_the_table_was_read_from(folder, source, found):
    assert parse(f"source,name\n{source},a\n", "t.csv", folder)[2].source == found


def test_a_table_in_a_bucket_or_on_a_web_server_names_what_lies_beside_it(to, bucket, s3_server, monkeypatch):
    monkeypatch.setenv("DARKROOM_PRIVATE_ADDRESSES", "allow")
    text = b"source,name\ndisks/a b.raw,a\n"
    client = s3.new_client(s3_server.url)
    client.put_object(Bucket=bucket, Key="in/t.csv", Body=text)
    client.put_object(Bucket=bucket, Key="in/disks/a b.raw", Body=bytes(4096))

    with open_systems(Settings()) as systems, webserver.serve(webserver.Site(text)) as site:
        in_bucket = batch.read_table(systems, f"s3://{bucket}/in/t.csv", "")
        on_the_web = batch.read_table(systems, f"{site.url}/in/t.csv?version=2", "")
        planned = batch.plan(systems, in_bucket | {3: on_the_web[2]}, "")

    assert on_the_web[2].source == f"{site.url}/in/disks/a%20b.raw"
    assert planned["ready"] == 2  # each is there


def test_a_table_at_a_file_url_may_have_a_space_in_its_folder(to, tmp_path):
    (tmp_path / "my disks").mkdir()
    write(tmp_path / "my disks" / "t.csv", ("source", "name"), ("a.raw", "a"))

    found = batch.read_table(to, f"file://{tmp_path}/my%20disks/t.csv", "")

    assert found[2].source == f"{tmp_path}/my disks/a.raw"


@pytest.fixture
def table(tmp_path):
    """A table, with a symbolic and a hard link to it."""
    path = write(tmp_path / "t.csv", ("source", "name"), ("gone.raw", "a"))
    (tmp_path / "soft.csv").symlink_to(path)
    os.link(path, tmp_path / "hard.csv")
    return path


@pytest.mark.parametrize("target", ["t.csv", "./t.csv", "soft.csv", "hard.csv"])
@pytest.mark.parametrize("source", ["t.csv", "soft.csv", "file://{folder}/t.csv"])
def test_a_report_does_not_replace_its_table(to, table, source, target, monkeypatch):
    monkeypatch.chdir(table.parent)
    before = {path.name: path.lstat().st_ino for path in table.parent.iterdir()}

    with pytest.raises(ReportTableError):
        batch.register(to, source.format(folder=table.parent), target)

    assert {path.name: path.lstat().st_ino for path in table.parent.iterdir()} == before
    assert "gone.raw" in table.read_text()


def test_a_report_of_another_name_is_written_and_a_table_that_is_missing_is_named(to, table):
    other = table.with_name("out.csv")
    other.touch()

    batch.read_table(to, str(table), str(other))
    with pytest.raises(SourceMissingError):
        batch.read_table(to, str(table.with_name("no.csv")), str(other))


@pytest.mark.parametrize("target", ["s3://b/in/t.csv", "s3://b/in//t.csv"])
def test_a_report_does_not_replace_its_table_in_a_bucket(target):
    with pytest.raises(ReportTableError):
        report.check(target, "s3://b/in/t.csv")
    report.check("s3://b/t.csv", "s3://b/in/t.csv")
    report.check("s3://b/in/t.csv", "/in/t.csv")


def test_the_command_line_refuses_it_before_anything_runs(to, table):
    text = table.read_text()

    for more in ((), ("--dry-run",)):
        asked = [DARKROOM, "migrate", str(table), "--report", str(table), *more]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (
            3,
            f"darkroom: report-is-table: {table}: the report would replace the table; choose another name for the "
            "report\n",
        )

    assert table.read_text() == text
    assert images(to) == []


def test_what_people_wrote_is_no_formula_in_the_report(to, tmp_path):
    rows = [{"number": 2, "request": {"name": "-1+cmd"}, "status": "failed", "code": "x", "reason": '=1+2, "3"'}]
    rows[0] |= dict.fromkeys(("image_id", "virtual_size", "new_size", "seconds"))

    report.write(to, str(tmp_path / "out.csv"), rows)

    with open(tmp_path / "out.csv", newline="") as file:
        line = next(csv.DictReader(file))
    assert (line["name"], line["reason"]) == ("'-1+cmd", '\'=1+2, "3"')
