"""raw: the file is the disk."""

from darkroom.formats import Inspection
from darkroom.formats.fields import File


def inspect(file: File) -> Inspection:
    """Any size is a disk, also one that is no multiple of 512: every byte of the file is the guest's, and no more."""
    file.require_disk(file.size)
    return Inspection("raw", file.size)
