"""An NBD export: a disk that somebody else serves, such as a rescue system or libvirt."""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from darkroom.nbd import client
from darkroom.sources import Source


@contextmanager
def open_export(url: str) -> Iterator[Source]:
    """nbd://host[:port]/export or nbd+unix:///export?socket=path; the bytes are the disk. Raises NbdUnavailableError.

    An export has no version: that it does not change while it is read is its server's to see to.
    """
    reader = client.connect(url)
    try:
        name = urlsplit(url).path.strip("/") or "export"
        yield Source(url, name, f"{url} {reader.size} bytes", reader, lambda: None, is_disk=True)
    finally:
        reader.close()
