"""The raw view of a disk image file: its guest-visible bytes, read the fastest way that is safe.

A raw file is its own raw view, and so is an ISO. A format that only maps units of the disk to places in the file (a
sparse VMDK) is read in place: its tables were inspected already, and reading through QEMU costs several times the
processor time. Everything else is QEMU's to decode, confined.
"""

from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from threading import Lock

from darkroom import model, qemu
from darkroom.formats import Inspection
from darkroom.model import Extent, Reader
from darkroom.sources import Source

_TABLES = 256


class MappedDisk:
    """A disk whose tables tell where in the file each unit of it lies.

    `table(n)` gives the file offsets, in bytes, of the units `n * per_table` and following; 0 means zeros.
    """

    def __init__(
        self, file: Reader, size: int, unit: int, per_table: int, table: Callable[[int], Sequence[int]]
    ) -> None:
        self.size = size
        self._file, self._unit, self._per_table, self._read_table = file, unit, per_table, table
        self._tables: OrderedDict[int, Sequence[int]] = OrderedDict()
        self._lock = Lock()

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes, by one read of the file for units that lie next to each other."""
        parts = [
            self._file.read(place, count) if place else bytes(count) for place, count in self._places(offset, length)
        ]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def extents(self, offset: int, length: int) -> list[Extent]:
        """Units without a place are zero extents."""
        return model.extents(offset, ((count, not place) for place, count in self._places(offset, length)))

    def close(self) -> None:
        """Nothing to release: the file is its owner's."""

    def _places(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """The places and lengths that make up a range; place 0 stands for zeros."""
        place = count = 0
        at, end = offset, offset + length
        while at < end:
            number, within = divmod(at, self._unit)
            table, entry = divmod(number, self._per_table)
            for start in islice(self._table(table), entry, -(-(end - at + within) // self._unit) + entry):
                here = start + within if start else 0
                step = min(self._unit - within, end - at)
                if count and (here == place + count if place and here else place == here):
                    count += step
                else:
                    if count:
                        yield place, count
                    place, count = here, step
                at += step
                within = 0
        if count:
            yield place, count

    def _table(self, number: int) -> Sequence[int]:
        with self._lock:
            table = self._tables.get(number)
            if table is None:
                table = self._tables[number] = self._read_table(number)
                if len(self._tables) > _TABLES:
                    self._tables.popitem(last=False)
        return table


@contextmanager
def open_disk(source: Source, inspection: Inspection, folder: Path) -> Iterator[Reader]:
    """The guest-visible bytes of a source that was inspected; sockets are made below `folder`.

    Raises SourceUnreadableError, SizeMismatchError, and what reading the source raises.
    """
    if source.is_disk or inspection.format in ("raw", "iso"):
        yield source.reader
    elif inspection.format == "vmdk" and not inspection.details["compressed"]:
        yield _vmdk(source.reader, inspection, source.name)
    else:
        with qemu.serve(source, inspection, folder) as reader:
            yield reader


def _vmdk(file: Reader, inspection: Inspection, which: str) -> MappedDisk:
    from darkroom.formats import vmdk  # noqa: PLC0415 - it imports numpy

    grain = int(inspection.details["grain_size"])
    directory = vmdk.grain_directory(file, which)
    zeros = array("Q", bytes(8 * vmdk.TABLE_ENTRIES))

    def table(number: int) -> Sequence[int]:
        return vmdk.grain_table(file, directory[number], which) if directory[number] else zeros

    return MappedDisk(file, inspection.virtual_size, grain, vmdk.TABLE_ENTRIES, table)
