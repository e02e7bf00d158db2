"""Descriptors of VMDKs as QEMU leaves them."""

import re

import pytest

from darkroom import formats
from darkroom.formats import HeaderInvalidError
from darkroom.rawdisk import RawDisk
from darkroom.settings import Limits


def inspect(path):
    with open(path, "rb") as file:
        return formats.inspect(RawDisk(file.fileno(), "x"), "vmdk", "x", Limits())


@pytest.mark.parametrize("digits", range(1, 9))
def test_a_content_id_of_any_length_leaves_a_valid_file(tmp_path, qemu_img, digits):
    path = tmp_path / "disk.vmdk"
    qemu_img("create", "-f", "vmdk", path, "1M")
    with open(path, "r+b") as file:
        file.seek(512)
        old = file.read(20 * 512)
        text = old.partition(b"\0")[0]
        new = re.sub(rb"\nCID=[0-9a-f]+", b"\nCID=" + b"1" * digits, text)
        file.seek(512)
        file.write((new + b"\0" + text[len(new) + 1 :]).ljust(len(old), b"\0")[: len(old)])

    assert inspect(path).virtual_size == 1 << 20


def test_text_behind_the_end_is_refused(tmp_path, qemu_img):
    path = tmp_path / "disk.vmdk"
    qemu_img("create", "-f", "vmdk", path, "1M")
    with open(path, "r+b") as file:
        file.seek(512)
        text = file.read(20 * 512).partition(b"\0")[0]
        file.seek(512 + len(text) + 1)
        file.write(b'RW 1 FLAT "/etc/passwd" 0\n')

    with pytest.raises(HeaderInvalidError):
        inspect(path)
