"""Large buffers, of which the data path frees and allocates thousands a second."""

import ctypes
from functools import cache

from darkroom.model import MiB

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


@cache
def reuse() -> None:
    """Have glibc keep freed buffers for the next ones (mallopt(3)).

    By default it hands buffers of this size back to the system, and the page faults of new ones cost as much
    processor time as reading the data does.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_M_MMAP_THRESHOLD, 64 * MiB)
        library.mallopt(_M_TRIM_THRESHOLD, 256 * MiB)
