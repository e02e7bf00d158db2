"""raw: the file is the disk."""

from darkroom.formats import Inspection
from darkroom.model import Reader
from darkroom.settings import Limits


def inspect(reader: Reader, which: str, limits: Limits) -> Inspection:
    """Any size is a disk; every byte of the file is the guest's."""
    return Inspection("raw", reader.size)
