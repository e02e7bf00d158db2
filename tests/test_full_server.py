"""Full-server images: several disks in one OVA, in and out, judged by tar, sha256sum and qemu-img."""

import random
import subprocess
from xml.etree import ElementTree

import pytest

from darkroom import exporting, importing, ovf, reading, rules
from darkroom.catalog import images
from darkroom.errors import DarkroomError
from darkroom.model import MiB
from tests import guests, operations


@pytest.fixture
def disks(tmp_path):
    """A system disk and two data disks, raw."""
    paths = []
    for number in range(3):
        path = tmp_path / f"{number}.raw"
        with open(path, "wb") as file:
            file.truncate((8 + number) * MiB)
            file.seek(number * MiB)
            file.write(random.Random(number).randbytes(MiB))
        paths.append(path)
    return paths


@pytest.fixture
def build(tmp_path, qemu_img):
    """An OVA of disks, by qemu-img and GNU tar; `order` is that of the files and the references."""

    def build(disks, name="server.ova", order=None, format="stream"):
        folder = tmp_path / f"of-{name}"
        folder.mkdir()
        files = []
        for number, disk in enumerate(disks):
            target = folder / f"d{number}.vmdk"
            qemu_img("convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", disk, target)
            files.append(ovf.File(target.name, target.stat().st_size, disk.stat().st_size, format))
        root = ElementTree.fromstring(ovf.encode(ovf.Server("box", "Debian 12"), files))
        for part in ("References", "DiskSection"):
            section = root.find(f"{{*}}{part}")
            entries = [entry for entry in section if not entry.tag.endswith("Info")]
            for entry in entries:
                section.remove(entry)
            section.extend(entries[number] for number in order or range(len(entries)))
        (folder / "box.ovf").write_bytes(ElementTree.tostring(root))
        listed = [f"d{number}.vmdk" for number in order or range(len(disks))]
        subprocess.run(["tar", "-cf", tmp_path / name, "-C", folder, "box.ovf", *listed], check=True)
        return tmp_path / name

    return build


def test_an_ova_of_several_disks_becomes_a_full_server_image(to, disks, build):
    image = operations.import_image(to, build(disks), key="gold")

    row = images.get(to.catalog, image)
    assert (row["type"], row["status"]) == ("full", "active")
    assert [disk["virtual_size"] for disk in images.disks(to.catalog, row["id"])] == [8 * MiB, 9 * MiB, 10 * MiB]
    for number, disk in enumerate(disks):
        with reading.open_disk(to, row, number) as reader:
            assert reader.read(0, reader.size) == disk.read_bytes()


def test_the_first_disk_is_the_one_that_is_attached_first(to, disks, build):
    image = operations.import_image(to, build(disks, order=[2, 0, 1]))

    sizes = [disk["virtual_size"] for disk in images.disks(to.catalog, images.get(to.catalog, image)["id"])]
    assert sizes == [8 * MiB, 9 * MiB, 10 * MiB]


def test_every_disk_is_inspected(to, disks, build, qemu_img):
    """The second disk has a backing file; no byte of it is taken."""
    good = build(disks[:2])
    folder = good.parent / "of-server.ova"
    (folder / "d1.vmdk").unlink()
    qemu_img("create", "-q", "-f", "vmdk", "-b", folder / "d0.vmdk", "-F", "vmdk", folder / "d1.vmdk")
    subprocess.run(["tar", "-cf", good, "-C", folder, "box.ovf", "d0.vmdk", "d1.vmdk"], check=True)

    with pytest.raises(DarkroomError) as caught:
        operations.import_image(to, good)
    assert caught.value.code == "external-reference"
    assert operations.objects(to) == {}


def test_a_data_image_of_several_disks_is_refused(to, disks, build):
    with pytest.raises(importing.ManyDisksError):
        operations.import_image(to, build(disks), type="data")


def test_an_iso_among_the_disks_is_refused(to, disks, build, tmp_path):
    build(disks[:2])
    folder = tmp_path / "of-server.ova"
    size = (folder / "d1.vmdk").stat().st_size
    iso = guests.medium(folder / "d1.iso", guests.says("login: "))
    told = (folder / "box.ovf").read_text().replace("d1.vmdk", iso.name).replace(str(size), str(iso.stat().st_size))
    (folder / "box.ovf").write_text(told)
    members = ["box.ovf", "d0.vmdk", iso.name]
    subprocess.run(["tar", "-cf", tmp_path / "with-iso.ova", "-C", folder, *members], check=True)

    with pytest.raises(DarkroomError, match="expected disks alone, found an ISO"):
        operations.import_image(to, tmp_path / "with-iso.ova")


def test_what_goes_out_as_an_ova_comes_in_the_same(to, disks, build, tmp_path, qemu_img):
    image = operations.import_image(to, build(disks), key="gold", min_ram=512)
    operations.export_image(to, image, tmp_path / "out.ova", "")
    again = operations.import_image(to, tmp_path / "out.ova", name="two")

    digests = [bytes(images.get(to.catalog, one)["content_digest"]) for one in (image, again)]
    assert digests[0] == digests[1]
    subprocess.run(["sha256sum", "--quiet", "-c", "out.ova.sha256"], check=True, cwd=tmp_path)
    properties = images.get(to.catalog, again)["properties"]["source"]["ovf"]
    assert (properties["name"], properties["manifest"]) == ("one", "verified")
    subprocess.run(["tar", "-xf", "out.ova"], check=True, cwd=tmp_path)
    for number, disk in enumerate(disks):
        qemu_img("compare", "-f", "raw", "-F", "vmdk", disk, tmp_path / f"one-disk{number}.vmdk")


@pytest.mark.parametrize("format", ["", "qcow2", "raw"])
def test_a_folder_has_a_file_for_each_disk_and_a_description(to, disks, build, tmp_path, qemu_img, format):
    image = operations.import_image(to, build(disks))
    result = operations.export_image(to, image, tmp_path / "out", format)

    suffix = format or "vmdk"
    names = {f"one-disk{number}.{suffix}" for number in range(3)} | {"one.ovf"}
    listed = {path.name for path in (tmp_path / "out").iterdir()}
    assert listed == names | {f"{name}.sha256" for name in names} | {"one.mf"}
    assert result["size"] == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    for name in names:
        subprocess.run(["sha256sum", "--quiet", "-c", f"{name}.sha256"], check=True, cwd=tmp_path / "out")
    for number, disk in enumerate(disks):
        qemu_img("compare", "-f", "raw", "-F", suffix, disk, tmp_path / "out" / f"one-disk{number}.{suffix}")
    files = ["one.ovf", *(f"one-disk{number}.{suffix}" for number in range(3)), "one.mf"]
    subprocess.run(["tar", "-cf", tmp_path / "packed.ova", "-C", tmp_path / "out", *files], check=True)
    again = operations.import_image(to, tmp_path / "packed.ova", name="two")
    assert images.get(to.catalog, again)["content_digest"] == images.get(to.catalog, image)["content_digest"]


def test_nothing_that_is_there_is_overwritten_and_nothing_is_left(to, disks, build, tmp_path):
    image = operations.import_image(to, build(disks))
    (tmp_path / "taken").mkdir()
    before = set(tmp_path.iterdir())

    with pytest.raises(exporting.TargetExistsError):
        operations.export_image(to, image, tmp_path / "taken", "")
    with pytest.raises(exporting.ExportFormatError):
        operations.export_image(to, image, tmp_path / "out.ova", "qcow2")
    for path in (to.settings.home / "store").rglob("packs/*/*"):
        path.unlink()
    with pytest.raises(DarkroomError):
        operations.export_image(to, image, tmp_path / "out", "")
    with pytest.raises(DarkroomError):
        operations.export_image(to, image, tmp_path / "out.ova", "")

    assert set(tmp_path.iterdir()) == before


def test_a_name_that_another_project_forged_writes_nothing_elsewhere(to, disks, build, tmp_path):
    image = operations.import_image(to, build(disks))
    with to.catalog.transaction() as connection:
        connection.execute("UPDATE images SET name = '../../forged' WHERE id = %s", (image,))
    (tmp_path / "a" / "b").mkdir(parents=True)

    with pytest.raises(rules.NameInvalidError):
        operations.export_image(to, image, tmp_path / "a" / "b" / "out", "")

    assert not list(tmp_path.rglob("*forged*"))


def test_more_disks_than_one_controller_takes_stay_in_order():
    files = [ovf.File(f"d{number}.vmdk", 1, 512, "vmdk") for number in range(20)]
    root = ElementTree.fromstring(ovf.encode(ovf.Server("box"), files))
    hardware = [item for item in root.iter() if item.tag.endswith("}Item")]
    items = [{child.tag.rpartition("}")[2]: child.text for child in item} for item in hardware]
    places = [(item["Parent"], item["AddressOnParent"]) for item in items if item["ResourceType"] == "17"]

    assert len(set(places)) == 20
    assert all(place != "7" for _, place in places)
    assert places == sorted(places, key=lambda place: tuple(map(int, place)))
