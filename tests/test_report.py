"""The report: as other programs read it, whole or not at all, in constant memory; and the usage that is drawn."""

import csv
import dataclasses
import json
import subprocess
import xml.etree.ElementTree as ET

import pandas
import pytest
from prefect.artifacts import Artifact

from darkroom import picture, reporting, usage
from darkroom.catalog import Catalog, create_project
from darkroom.catalog.listing import Filter
from darkroom.migration import report as migrations
from darkroom.store import open_store
from flows.parameters.reporting import ReportImages
from flows.report_images import report_images
from tests import operations

HOSTILE = {
    "=cmd()": "'=cmd()",
    "+1+2": "'+1+2",
    "-2-3": "'-2-3",
    "@SUM(A1)": "'@SUM(A1)",
    "\tx": "'\tx",
    "\r=1": "'\r=1",
    'say "hi", twice': 'say "hi", twice',
    "two\nlines": "two\nlines",
    "caf\u00e9 \U0001f4bf": "caf\u00e9 \U0001f4bf",
    "1e5": "1e5",
    "plain": "plain",
}


@pytest.fixture
def hostile(to):
    """Images with names that no rule would let through."""
    return {name: operations.image_row(to, name, {"team": "web"}, description=name) for name in HOSTILE}


def report(to, target, columns=(), **fields):
    return reporting.report(to, str(target), columns, Filter(**fields))


def read(path):
    with open(path, encoding="utf-8-sig", newline="") as file:
        return list(csv.reader(file))


def test_the_columns_are_those_of_ims_in_their_order_and_any_others_by_name(to, tmp_path):
    image = operations.image_row(to, "web-1", {"b": "2", "a": ""}, properties={"os_version": "Debian 12"}, family="web")
    report(to, tmp_path / "ims.csv")
    report(to, tmp_path / "own.csv", ["tags", "family", "min_ram", "name"])

    header, row = read(tmp_path / "ims.csv")
    assert [name.partition(" (")[0] for name in header] == [
        "Image Name",
        "Image ID",
        "Image Status",
        "OS",
        "Image Type",
        "Image Creation Time",
        "Disk Capacities",
        "Shared Disks",
        "Image Size",
        "Encryption",
    ]
    assert (*row[:5], *row[6:]) == ("web-1", image, "active", "Debian 12", "system", "1", "0", "1048576", "no")
    titles = ["Tags", "Family", "Minimum Memory (MiB)", "Image Name"]
    assert read(tmp_path / "own.csv") == [titles, ["a= b=2", "web", "", "web-1"]]
    with pytest.raises(reporting.ColumnError, match="color"):
        report(to, tmp_path / "no.csv", ["name", "color"])


def test_pandas_and_the_csv_module_read_what_was_written(to, hostile, tmp_path):
    report(to, tmp_path / "images.csv", ["id", "name", "description", "version"])

    frame = pandas.read_csv(tmp_path / "images.csv", dtype=str, keep_default_na=False)
    rows = {row[0]: row[1:] for row in read(tmp_path / "images.csv")[1:]}
    for name, image in hostile.items():
        (line,) = frame[frame["Image ID"] == image].to_dict("records")
        assert [line["Image Name"], line["Description"], line["Version"]] == rows[image]
        assert rows[image] == [HOSTILE[name], HOSTILE[name], "1"]
    lines = (tmp_path / "images.csv").read_bytes().split(b"\r\n")
    assert lines[0].startswith("\ufeff".encode())
    assert lines[-1] == b""


def test_libreoffice_shows_texts_and_calculates_nothing(to, hostile, tmp_path):
    report(to, tmp_path / "images.csv", ["name", "size"])
    profile = f"-env:UserInstallation=file://{tmp_path}/profile"
    # Its dialog knows UTF-8 by the byte order mark; without a dialog it has to be told: comma, quote, UTF-8, line 1.
    options = ["--headless", "--infilter=CSV:44,34,76,1", "--convert-to", "fods", "--outdir", str(tmp_path)]
    command = ["soffice", profile, *options]
    subprocess.run([*command, str(tmp_path / "images.csv")], check=True, capture_output=True, timeout=120)

    names = {"office": "urn:oasis:names:tc:opendocument:xmlns:office:1.0"}
    names |= {"table": "urn:oasis:names:tc:opendocument:xmlns:table:1.0"}
    names |= {"text": "urn:oasis:names:tc:opendocument:xmlns:text:1.0"}
    sheet = ET.parse(tmp_path / "images.fods").getroot().find(".//table:table", names)
    cells = [row.find("table:table-cell", names) for row in sheet.findall("table:table-row", names)]
    assert not [cell for cell in sheet.iter() if f"{{{names['table']}}}formula" in cell.attrib]
    shown = {"\n".join("".join(line.itertext()) for line in cell.findall("text:p", names)) for cell in cells}
    readable = {name.replace("\t", "").replace("\r", "") for name in shown}
    for text in (
        "'=cmd()",
        "'+1+2",
        "'-2-3",
        "'@SUM(A1)",
        'say "hi", twice',
        "two\nlines",
        "caf\u00e9 \U0001f4bf",
        "plain",
    ):
        assert text in readable


def test_a_filter_chooses_and_deleted_images_are_left_out(to, tmp_path):
    for name, status in (("web-1", "active"), ("web-2", "killed"), ("gone", "deleted"), ("db", "active")):
        operations.image_row(to, name, {"team": name[:2]}, status=status)
    report(to, tmp_path / "a.csv", ["name"])
    report(to, tmp_path / "b.csv", ["name"], tags=["team=we"], statuses=["active"])

    assert sorted(read(tmp_path / "a.csv")[1:]) == [["db"], ["web-1"], ["web-2"]]
    assert read(tmp_path / "b.csv")[1:] == [["web-1"]]


def test_a_full_image_tells_each_of_its_disks(to, tmp_path):
    image = operations.image_row(to, "full", type="full")
    with to.catalog.transaction() as connection:
        connection.execute("INSERT INTO disks (image_id, number, virtual_size) VALUES (%s, 1, %s)", (image, 5 << 30))
    report(to, tmp_path / "a.csv", ["disk_capacities"])

    assert read(tmp_path / "a.csv")[1:] == [["1; 5"]]


def test_many_chunks_are_one_file_and_an_empty_list_a_header(to, tmp_path, monkeypatch):
    report(to, tmp_path / "none.csv", ["name"])
    assert read(tmp_path / "none.csv") == [["Image Name"]]
    made = [operations.image_row(to, f"image-{number}") for number in range(7)]
    monkeypatch.setattr(reporting, "_CHUNK", 2)

    assert report(to, tmp_path / "all.csv", ["id"])["images"] == 7
    assert sorted(row[0] for row in read(tmp_path / "all.csv")[1:]) == sorted(made)


def test_the_operator_reports_all_projects_and_a_project_its_own(to, catalog_url, tmp_path):
    operations.image_row(to, "mine")
    with Catalog(catalog_url, None) as operator:
        with operator.transaction() as connection:
            create_project(connection, "other")
        everywhere = dataclasses.replace(to, catalog=operator)
        with Catalog(catalog_url, "other") as theirs:
            operations.image_row(dataclasses.replace(to, catalog=theirs), "theirs")
        reporting.report(everywhere, str(tmp_path / "all.csv"), [], Filter(), all_projects=True)
        assert {(row[0], row[-1]) for row in read(tmp_path / "all.csv")[1:]} == {
            ("mine", "default"),
            ("theirs", "other"),
        }
        assert {row["name"] for row in usage.usage(everywhere)["projects"]} == {"default", "other"}
    report(to, tmp_path / "own.csv", ["name", "project"])
    assert read(tmp_path / "own.csv")[1:] == [["mine", "default"]]
    assert [row["name"] for row in usage.usage(to)["projects"]] == ["default"]


def test_an_old_report_stays_until_the_new_one_is_whole(to, tmp_path, monkeypatch):
    operations.image_row(to, "one")
    target = tmp_path / "images.csv"
    report(to, target, ["name"])
    old = target.read_bytes()

    def broken(cells):
        raise OSError("no space left")

    monkeypatch.setattr(reporting, "_safe", broken)
    with pytest.raises(OSError, match="no space left"):
        report(to, target, ["name"])
    assert target.read_bytes() == old
    assert [path.name for path in tmp_path.iterdir()] == ["images.csv"]
    monkeypatch.undo()
    operations.image_row(to, "two")
    report(to, target, ["name"])
    assert len(read(target)) == 3
    with pytest.raises(reporting.ReportFolderError):
        report(to, tmp_path / "nowhere" / "images.csv")


def test_a_report_replaces_no_file_of_another_kind(to, tmp_path):
    keys = tmp_path / "keys.json"
    keys.write_text("precious")

    with pytest.raises(reporting.ReportNameError):
        report(to, keys, ["name"])
    with pytest.raises(reporting.ReportNameError):
        migrations.write(to, str(keys), [])

    assert keys.read_text() == "precious"


def test_a_report_goes_to_a_bucket(bucket, to):
    operations.image_row(to, "one")
    assert report(to, f"s3://{bucket}/lists/images.csv", ["name"])["target"] == f"s3://{bucket}/lists/images.csv"

    stored = open_store(f"s3://{bucket}/lists", to.settings).get("images.csv")
    assert stored == "\ufeffImage Name\r\none\r\n".encode()
    assert list(to.settings.spool.iterdir()) == []


def test_usage_tells_what_deduplication_saves(to, raw_disk, tmp_path):
    for name, family in (("one", "web"), ("two", "web"), ("three", None)):
        image = operations.import_image(to, raw_disk, name=name)
        with to.catalog.transaction() as connection:
            connection.execute("UPDATE images SET family = %s WHERE id = %s", (family, image))
            stored = connection.execute("SELECT stored_size FROM images WHERE id = %s", (image,)).fetchone()[
                "stored_size"
            ]
    in_store = sum(size for key, size in operations.objects(to).items() if "/packs/" in key)

    found = usage.usage(to)

    (project,) = found["projects"]
    assert (project["images"], project["stored"]) == (3, 3 * stored)
    assert project["unique"] + project["deduplicated"] == project["stored"]
    assert 0.95 * in_store <= project["unique"] <= in_store
    assert [(row["name"], row["images"], row["stored"]) for row in found["families"]] == [
        ("web", 2, 2 * stored),
        ("", 1, stored),
    ]
    assert (found["growth"][-1]["stored"], found["growth"][-1]["unique"]) == (3 * stored, stored)


def test_the_flow_shows_a_table_and_a_picture(prefect_api, to, raw_disk, home):
    operations.import_image(to, raw_disk, name="one")
    result = report_images(ReportImages(columns=["name"]))

    assert read(home / "reports" / "images.csv") == [["Image Name"], ["one"]]
    assert result["images"] == 1
    table = json.loads(Artifact.get("usage").data)
    assert [(row["what"], row["name"], row["images"]) for row in table] == [
        ("project", "default", 1),
        ("family", "-", 1),
    ]
    assert Artifact.get("usage-picture").data.startswith("data:image/png;base64,")


@pytest.mark.parametrize("kind", ["nothing", "one day"])
def test_the_picture_is_drawn_of_little_too(to, kind):
    if kind == "one day":
        operations.image_row(to, "one")
    png = picture.draw(usage.usage(to), "Images")

    assert png.startswith(b"\x89PNG")
    assert len(png) < 1 << 20
