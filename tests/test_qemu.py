"""QEMU's tools: always with the driver named, always confined; the raw view is what QEMU itself reads."""

import subprocess

import pytest

from darkroom import formats, qemu, rawview, sandbox, sources
from darkroom.errors import RefusedError
from darkroom.model import MiB
from darkroom.settings import Settings
from tests import operations
from tests.strategies import BytesReader
from tests.test_import import SOURCES, convert, whole_disk  # noqa: F401 - a fixture


def guest_bytes(path, home, as_remote=False):
    settings = Settings()
    with sources.open_source(str(path), settings, home / "spool") as source:
        found = formats.inspect(source.reader, source.hint, source.name, settings.limits)
        if as_remote:
            import dataclasses

            source = dataclasses.replace(source, fd=None)
        with rawview.open_disk(source, found, home / "spool") as reader:
            assert reader.size == found.virtual_size
            return reader.read(0, reader.size), reader.extents(0, reader.size)


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("as_remote", [False, True], ids=["local", "remote"])
def test_the_raw_view_is_the_disk(whole_disk, home, name, as_remote):  # noqa: F811
    data, extents = guest_bytes(convert(whole_disk, name), home, as_remote)

    assert data == whole_disk.read_bytes()
    for extent in extents:
        assert not extent.zero or not any(data[extent.start : extent.end])
    assert sum(extent.length for extent in extents) == len(data)


@pytest.mark.parametrize("size", [1 * MiB, 33 * MiB, 64 * MiB + 65536])
def test_a_sparse_vmdk_is_read_as_qemu_reads_it(tmp_path, home, qemu_img, size):
    path = tmp_path / "disk.vmdk"
    qemu_img("create", "-f", "vmdk", path, size)
    writes = [f"write -P {n} {n * 777 * 512 % (size - 70000)} {(n * 37 % 130 + 1) * 512}" for n in range(1, 12)]
    words = [word for write in writes for word in ("-c", write)]
    subprocess.run(["qemu-io", "-f", "vmdk", *words, path], check=True, stdout=subprocess.DEVNULL)
    qemu_img("convert", "-f", "vmdk", "-O", "raw", path, tmp_path / "judge")

    assert guest_bytes(path, home)[0] == (tmp_path / "judge").read_bytes()


def test_every_call_of_a_qemu_tool_names_the_driver_and_is_confined(to, whole_disk, tmp_path, monkeypatch):  # noqa: F811
    calls = []
    real = sandbox.command

    def recorded(arguments, **options):
        calls.append(list(arguments))
        return real(arguments, **options)

    files = [convert(whole_disk, name) for name in SOURCES]
    monkeypatch.setattr(sandbox, "command", recorded)
    for number, file in enumerate(files):
        image = operations.import_image(to, file, name=f"i{number}")
    for format in ("qcow2", "vhd", "vmdk"):
        operations.export_image(to, image, tmp_path / f"out.{format}", format)

    assert len(calls) > len(SOURCES)
    for call in calls:
        assert call[0] in ("qemu-nbd", "qemu-img")
        assert "--image-opts" in call
        assert any(word.startswith("driver=") for word in call)
        if call[0] == "qemu-img":
            assert "-O" in call


def test_a_file_that_qemu_does_not_open_is_refused_with_its_words(tmp_path, home, monkeypatch):
    """Inspection is passed by force: what QEMU then says is the refusal."""
    bad = tmp_path / "bad.qcow2"
    bad.write_bytes(b"QFI\xfb\0\0\0\x09" + bytes(65528))
    with sources.open_source(str(bad), Settings(), home / "spool") as source:
        found = formats.Inspection("qcow2", MiB)
        with pytest.raises(qemu.SourceUnreadableError, match="version 9"), qemu.serve(source, found, home / "s"):
            pass


def test_another_size_than_the_header_says_is_refused(whole_disk, home):  # noqa: F811
    with sources.open_source(str(convert(whole_disk, "qcow2-v3")), Settings(), home / "spool") as source:
        with pytest.raises(qemu.SizeMismatchError), qemu.serve(source, formats.Inspection("qcow2", MiB), home / "s"):
            pass


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_an_error_of_the_reader_is_raised_and_no_file_is_left(tmp_path, format):
    reader = BytesReader([("data", 8 * MiB)])
    refused = RefusedError("the reader")

    def broken(offset, length):
        raise refused

    reader.read = broken
    with pytest.raises(RefusedError) as caught:
        qemu.convert(reader, tmp_path / "out", format, progress=operations.quiet)
    assert caught.value is refused
    assert list(tmp_path.iterdir()) == []


def test_progress_goes_to_the_end(tmp_path):
    seen = []
    for format in ("raw", "qcow2"):
        qemu.convert(BytesReader([("data", 8 * MiB)]), tmp_path / format, format, progress=lambda *at: seen.append(at))
        assert seen[-1] == (8 * MiB, 8 * MiB)
        seen.clear()
