import hashlib
import io
import os
import random
import subprocess
import tarfile
import textwrap

import pytest

from darkroom import sources
from darkroom.errors import DarkroomError
from darkroom.model import KiB, MiB
from darkroom.settings import Settings
from tests import webserver

FORMATS = ["ustar", "gnu", "oldgnu", "posix"]
DISK = '<Disk ovf:diskId="vmdisk1" ovf:fileRef="file1" ovf:capacity="20" ovf:format="http://x/vmdk.html"/>'


def ovf(files='<File ovf:id="file1" ovf:href="box-disk1.vmdk"/>', disks=DISK, version="1", prefix=""):
    return textwrap.dedent(f"""\
        <?xml version="1.0" encoding="UTF-8"?>{prefix}
        <Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/{version}"
          xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/{version}"
          xmlns:vmw="http://www.vmware.com/schema/ovf">
          <References>{files}</References>
          <DiskSection><Info>Disks</Info>{disks}</DiskSection>
          <VirtualSystem ovf:id="box-id">
            <Info>A server</Info><Name>box</Name>
            <OperatingSystemSection ovf:id="96">
              <Info>OS</Info><Description>Debian 12</Description>
            </OperatingSystemSection>
            <VirtualHardwareSection><Info>Hardware</Info>
              <vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="efi"/>
            </VirtualHardwareSection>
          </VirtualSystem>
        </Envelope>
        """).encode()


def manifest(algorithm, files):
    lines = [f"{algorithm.upper()}({name})= {hashlib.new(algorithm, data).hexdigest()}" for name, data in files.items()]
    return "\n".join(lines).encode() + b"\n"


@pytest.fixture(scope="module")
def vmdk(tmp_path_factory):
    """A real streamOptimized VMDK."""
    folder = tmp_path_factory.mktemp("vmdk")
    with open(folder / "raw", "wb") as file:
        file.truncate(20 * MiB)
        file.write(random.Random(1).randbytes(MiB))
    convert = ["qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized"]
    subprocess.run([*convert, folder / "raw", folder / "disk.vmdk"], check=True)
    return (folder / "disk.vmdk").read_bytes()


@pytest.fixture
def spool(tmp_path):
    return tmp_path / "spool"


@pytest.fixture
def build(tmp_path):
    """An OVA of the given files by GNU tar, in their order."""

    def build(files, name="box.ova", format="ustar"):
        folder = tmp_path / f"files-{name}"
        folder.mkdir()
        for member, data in files.items():
            (folder / member).write_bytes(data)
        subprocess.run(["tar", f"--format={format}", "-cf", tmp_path / name, "-C", folder, *files], check=True)
        return tmp_path / name

    return build


@pytest.fixture
def craft(tmp_path):
    """An OVA of crafted members: (name, data, attributes of tarfile.TarInfo)."""

    def craft(members, format=tarfile.USTAR_FORMAT):
        path = tmp_path / "crafted.ova"
        with tarfile.open(path, "w", format=format) as archive:
            for name, data, attributes in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                for key, value in attributes.items():
                    setattr(info, key, value)
                archive.addfile(info, io.BytesIO(data))
        return path

    return craft


def opened(path, spool):
    return sources.open_source(str(path), Settings(), spool)


def refused(path, spool):
    with pytest.raises(DarkroomError) as caught, opened(path, spool):
        pass
    assert caught.value.exit_code == 3
    return caught.value.code


@pytest.mark.parametrize("format", FORMATS)
def test_the_disk_of_an_ova_is_read_in_place(build, spool, vmdk, format, qemu_img, tmp_path):
    path = build({"box.ovf": ovf(), "box-disk1.vmdk": vmdk}, format=format)

    with opened(path, spool) as source:
        assert (source.name, source.hint, source.published.size) == ("box-disk1.vmdk", "vmdk", path.stat().st_size)
        assert source.reader.read(0, source.reader.size) == vmdk
        offset, size = source.fd_range
        assert os.pread(source.fd, size, offset) == vmdk
        assert source.properties == {"name": "box", "os": "Debian 12", "firmware": "efi", "manifest": "none"}
        described = f"driver=vmdk,file.driver=raw,file.offset={offset},file.size={size}"
        assert "20 MiB" in qemu_img(
            "info", "--image-opts", f"{described},file.file.driver=file,file.file.filename={path}"
        )
        source.check_unchanged()


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha384", "sha512"])
def test_a_manifest_is_verified_once(build, spool, vmdk, algorithm, monkeypatch):
    files = {"box.ovf": ovf(), "box-disk1.vmdk": vmdk}
    path = build({**files, "box.mf": manifest(algorithm, files)})

    with opened(path, spool) as source:
        assert source.properties["manifest"] == "verified"
    monkeypatch.setattr(hashlib, "new", lambda *_: pytest.fail("verified again"))
    with opened(path, spool) as source:
        assert source.reader.read(0, source.reader.size) == vmdk


def test_what_was_verified_of_one_file_does_not_count_for_another(build, spool, vmdk, tmp_path):
    files = {"box.ovf": ovf(), "box-disk1.vmdk": vmdk}
    good = build({**files, "box.mf": manifest("sha256", files)})
    bad = build({**files, "box-disk1.vmdk": vmdk[::-1], "box.mf": manifest("sha256", files)}, name="bad.ova")

    with opened(good, spool):
        pass
    assert refused(bad, spool) == "ova-digest-mismatch"
    bad.replace(good)
    assert refused(good, spool) == "ova-digest-mismatch"


def test_every_member_that_the_manifest_lists_is_verified(build, spool, vmdk):
    files = {"box.ovf": ovf(), "box-disk1.vmdk": vmdk, "box.nvram": b"nvram"}
    wrong = {**files, "box.nvram": b"other"}

    assert refused(build({**files, "box.mf": manifest("sha256", wrong)}), spool) == "ova-digest-mismatch"
    assert refused(build({**files, "box.mf": manifest("sha256", wrong)}, name="again.ova"), spool)


@pytest.mark.parametrize(
    "lines",
    [
        lambda files: manifest("sha256", {"box.ovf": files["box.ovf"]}),
        lambda files: manifest("sha256", {"box-disk1.vmdk": files["box-disk1.vmdk"]}),
        lambda files: b"",
        lambda files: manifest("sha256", files) + b"SHA256(other.vmdk)= 00\n",
        lambda files: manifest("sha256", files) * 2,
        lambda files: manifest("md5", files),
        lambda files: manifest("sha256", files) + b"junk\n",
        lambda files: manifest("sha256", files) + b"\n" * 2 * MiB,
    ],
    ids=["no-disk", "no-descriptor", "empty", "stranger", "twice", "md5", "junk", "huge"],
)
def test_a_manifest_that_does_not_tell_is_refused(build, spool, vmdk, lines):
    files = {"box.ovf": ovf(), "box-disk1.vmdk": vmdk}

    assert refused(build({**files, "box.mf": lines(files)}), spool) == "ova-invalid"


@pytest.mark.parametrize("kind", ["gz", "zst", "xz"])
def test_a_compressed_ova_goes_through_the_spool(build, spool, vmdk, kind):
    files = {"box.ovf": ovf(), "box-disk1.vmdk": vmdk}
    path = build({**files, "box.mf": manifest("sha256", files)})
    tool = {"gz": "gzip", "zst": "zstd", "xz": "xz"}[kind]
    subprocess.run([tool, "-q", "-k", path], check=True)

    with opened(f"{path}.{kind}", spool) as source:
        assert source.reader.read(0, source.reader.size) == vmdk
        assert os.pread(source.fd, source.fd_range[1], source.fd_range[0]) == vmdk


def test_an_ova_is_read_over_http(build, spool, vmdk):
    files = {"box.ovf": ovf(), "box-disk1.vmdk": vmdk}
    data = build({**files, "box.mf": manifest("sha256", files)}).read_bytes()

    with webserver.serve(webserver.Site(data)) as site:
        settings = Settings(private_addresses=True)
        with sources.open_source(f"{site.url}/box.ova", settings, spool) as source:
            assert source.reader.read(0, source.reader.size) == vmdk
            assert source.reader.extents(0, 100)[0].start == 0
            assert (source.fd, source.fd_range, source.hint) == (None, None, "vmdk")


def test_other_ways_to_write_an_ovf_are_read(build, spool, vmdk):
    quoted = ovf(files='<File ovf:id="file1" ovf:href="my%20disk.vmdk" ovf:compression="identity"/>')
    with opened(build({"a.ovf": quoted, "my disk.vmdk": vmdk}, name="1.ova"), spool) as source:
        assert source.name == "my disk.vmdk"
    with opened(build({"a.OVF": ovf(version="2"), "box-disk1.vmdk": vmdk}, name="2.ova"), spool) as source:
        assert source.name == "box-disk1.vmdk"
    encoded = ovf().decode().replace("UTF-8", "UTF-16").encode("utf-16")
    with opened(build({"a.ovf": encoded, "box-disk1.vmdk": vmdk}, name="3.ova"), spool) as source:
        assert source.properties["name"] == "box"


@pytest.mark.parametrize(
    ("description", "code"),
    [
        (ovf(disks=DISK + DISK.replace("vmdisk1", "vmdisk2")), "ova-invalid"),
        (ovf(disks=DISK + '<Disk ovf:diskId="empty" ovf:capacity="1"/>'), "ova-invalid"),
        (ovf(disks=""), "ova-invalid"),
        (ovf(files=""), "ova-invalid"),
        (ovf(files='<File ovf:id="file1" ovf:href="box-disk1.vmdk"/>' * 2), "ova-invalid"),
        (ovf(files='<File ovf:id="file1" ovf:href="http://169.254.169.254/disk.vmdk"/>'), "ova-invalid"),
        (ovf(files='<File ovf:id="file1" ovf:href="/etc/passwd"/>'), "ova-invalid"),
        (ovf(files='<File ovf:id="file1" ovf:href="../box-disk1.vmdk"/>'), "ova-invalid"),
        (ovf(files='<File ovf:id="file1" ovf:href="box-disk1.vmdk" ovf:compression="gzip"/>'), "ova-invalid"),
        (ovf(files='<File ovf:id="file1" ovf:href="box-disk1.vmdk" ovf:chunkSize="9"/>'), "ova-invalid"),
        (ovf(disks=DISK.replace("/>", ' ovf:parentRef="base"/>')), "ova-invalid"),
        (ovf(disks=DISK.replace("file1", "file2")), "ova-invalid"),
        (ovf(prefix="<!DOCTYPE Envelope>"), "ova-invalid"),
        (ovf(prefix='<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'), "ova-invalid"),
        (ovf(prefix='<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>'), "ova-invalid"),
        (ovf()[:300], "ova-invalid"),
        (b"", "ova-invalid"),
        (b"\0" * 1000, "ova-invalid"),
        (b'<?xml version="1.0" encoding="nonsense"?><a/>', "ova-invalid"),
        (b"<a>" * 200_000, "ova-invalid"),
        (ovf() + b" " * 2 * MiB, "ova-invalid"),
    ],
    ids=[
        "one-file-twice", "empty-second-disk", "no-disk", "no-file", "file-twice", "href-url", "href-absolute",
        "href-outside", "gzip", "chunks", "parent", "no-such-file", "doctype", "external-entity", "billion-laughs",
        "cut", "empty", "zeros", "encoding", "deep", "huge",
    ],
)  # fmt: skip
def test_a_description_that_misleads_is_refused(build, spool, vmdk, description, code):
    assert refused(build({"box.ovf": description, "box-disk1.vmdk": vmdk[: 64 * KiB]}), spool) == code


GOOD = [("box.ovf", ovf(), {}), ("box-disk1.vmdk", b"the disk" * 100, {})]


def test_the_good_archive_of_the_crafted_ones_is_read(craft, spool):
    with opened(craft(GOOD), spool) as source:
        assert source.reader.read(0, source.reader.size) == b"the disk" * 100


@pytest.mark.parametrize(
    "member",
    [
        ("../x", b"x", {}),
        ("/etc/x", b"x", {}),
        ("folder/x", b"x", {}),
        ("a\\x", b"x", {}),
        (".hidden", b"x", {}),
        ("a\nb", b"x", {}),
        ("box.ovf", b"x", {}),
        ("second.ovf", b"x", {}),
        ("box-disk1.vmdk", b"x", {}),
        ("x", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}),
        ("x", b"", {"type": tarfile.LNKTYPE, "linkname": "box.ovf"}),
        ("x", b"", {"type": tarfile.CHRTYPE}),
        ("x", b"", {"type": tarfile.BLKTYPE}),
        ("x", b"", {"type": tarfile.FIFOTYPE}),
        ("x", b"", {"type": tarfile.DIRTYPE}),
        ("x", b"", {"type": tarfile.GNUTYPE_SPARSE}),
        ("x", b"", {"type": tarfile.CONTTYPE}),
        ("x", b"", {"type": b"V"}),
    ],
    ids=lambda member: f"{member[0]!r}-{member[2].get('type', b'').decode()}",
)
def test_members_that_are_no_plain_files_are_refused(craft, spool, member):
    assert refused(craft([*GOOD, member]), spool) == "ova-invalid"
    assert refused(craft([member, *GOOD]), spool) == "ova-invalid"


def pax(**records):
    return [*GOOD[:1], (*GOOD[1][:2], {"pax_headers": records})]


def test_pax_headers_that_tell_name_and_size_are_heeded(craft, spool):
    name = "d" * 150 + ".vmdk"
    files = [("box.ovf", ovf(files=f'<File ovf:id="file1" ovf:href="{name}"/>'), {}), (name, b"disk", {})]

    for format in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with opened(craft(files, format), spool) as source:
            assert (source.name, source.reader.read(0, 4)) == (name, b"disk")


@pytest.mark.parametrize(
    "records",
    [
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"},
        {"GNU.sparse.map": "0,1"},
        {"size": "99999999999999999999"},
        {"size": "-512"},
        {"size": "1e3"},
        {"path": "../x"},
        {"path": "/etc/passwd"},
        {"SCHILY.realsize": "5"},
    ],
    ids=lambda records: "-".join(f"{k}={v}" for k, v in records.items()).replace("/", "_"),
)
def test_pax_headers_that_mislead_are_refused(craft, spool, records):
    assert refused(craft(pax(**records), tarfile.PAX_FORMAT), spool) == "ova-invalid"


@pytest.mark.parametrize(
    "text", [b"junk", b"4 a=\n", b"999 path=x\n", b"0 path=x\n", b"10 path=xyz", b"10 path=a\n10 path=b\n"]
)
def test_pax_headers_that_are_damaged_are_refused(craft, spool, text):
    assert refused(craft([("x", text, {"type": tarfile.XHDTYPE}), *GOOD]), spool) == "ova-invalid"


def test_long_chains_of_headers_and_members_are_refused(craft, spool, tmp_path):
    assert refused(craft([*GOOD, *((f"f{n}", b"", {}) for n in range(70))]), spool) == "ova-invalid"
    for kind in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE):
        assert refused(craft([("x", b"", {"type": kind}) for _ in range(5000)]), spool) == "ova-invalid"


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_two_headers_for_one_file_are_refused(craft, spool, kind):
    data = b"a.nvram\0" if kind == tarfile.GNUTYPE_LONGNAME else b"16 path=a.nvram\n"
    header, member = ("x", data, {"type": kind}), ("b.nvram", b"nvram", {})

    with opened(craft([*GOOD, header, member]), spool) as source:
        assert source.name == "box-disk1.vmdk"
    assert refused(craft([*GOOD, header, header, member]), spool) == "ova-invalid"


def patched(path, at, data):
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(data)
        if 148 <= at < 156:
            return path
        file.seek(0)
        header = bytearray(file.read(512))
        header[148:156] = b" " * 8
        file.seek(148)
        file.write(b"%06o\0 " % sum(header))
    return path


@pytest.mark.parametrize(
    ("at", "data"),
    [
        (124, b"77777777777\0"),
        (124, b"\x80" + b"\xff" * 11),
        (124, b"\xff" * 12),
        (124, b"-0000000001\0"),
        (124, b"0x1\0"),
        (124, b"\0" * 12),
        (148, b"0000000\0"),
        (0, b"\xff\xfe"),
    ],
    ids=["large", "binary-large", "negative", "minus", "hex", "no-digits", "checksum", "name"],
)
def test_headers_with_absurd_numbers_are_refused(craft, spool, at, data):
    assert refused(patched(craft(GOOD), at, data), spool) == "ova-invalid"


def test_an_archive_cut_short_is_refused(craft, spool):
    data = craft([*GOOD[::-1]]).read_bytes()
    path = spool.parent / "cut.ova"

    for size in (512, 700, 1024, 1500, 2048):
        path.write_bytes(data[:size])
        assert refused(path, spool) == "ova-invalid"
    path.write_bytes(craft([("x", b"a.nvram" * 100, {"type": tarfile.GNUTYPE_LONGNAME})]).read_bytes()[:600])
    assert refused(path, spool) == "ova-invalid"


def test_a_file_that_only_says_it_is_an_ova_is_refused(spool, tmp_path):
    (tmp_path / "box.ova").write_bytes(b"not a tar" * 1000)

    assert refused(tmp_path / "box.ova", spool) == "ova-invalid"


def test_members_of_more_than_eight_gibibytes_are_found(spool, tmp_path):
    """A sparse archive of 9 GiB, written by GNU tar's rules: binary sizes, and by pax records."""
    for format, name in ((tarfile.GNU_FORMAT, "gnu.ova"), (tarfile.PAX_FORMAT, "pax.ova")):
        size = 9 * 1024 * MiB + 5
        info = tarfile.TarInfo("box-disk1.vmdk")
        info.size = size
        with open(tmp_path / name, "wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=format) as archive:
                description = tarfile.TarInfo("box.ovf")
                description.size = len(ovf())
                archive.addfile(description, io.BytesIO(ovf()))
                end = file.tell()
            file.seek(end)
            file.write(info.tobuf(format))
            begin = file.tell()
            file.write(b"begin")
            file.seek(begin + size - 3)
            file.write(b"end")
            file.truncate(begin + -(-size // 512) * 512 + 1024)
        with opened(tmp_path / name, spool) as source:
            assert source.reader.size == size
            assert (source.reader.read(0, 5), source.reader.read(size - 3, 3)) == (b"begin", b"end")
