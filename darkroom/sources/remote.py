"""Remote bytes as a Reader: fetched in windows, of which a few are kept."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from darkroom.errors import UnavailableError
from darkroom.model import Extent, MiB
from darkroom.rawdisk import SourceChangedError

T = TypeVar("T")

WINDOW = 4 * MiB
CONNECTIONS = 16
_WINDOWS = 16
_PAUSES = (0.1, 0.5, 2.0)


def retried(fetch: Callable[[], T]) -> T:
    """Fetch again, up to three times, what a server did not give; raises what the last attempt raised."""
    for pause in _PAUSES:
        try:
            return fetch()
        except UnavailableError as error:
            if not error.retryable:
                raise
            time.sleep(pause)
    return fetch()


class WindowReader:
    """Reads by `fetch(offset, length)`, a window at a time; one request for a window however many want it.

    So the small reads of a format's tables do not become a request each. At most 16 windows are kept.
    """

    def __init__(self, which: str, size: int, fetch: Callable[[int, int], bytes]) -> None:
        self.size = size
        self._which = which
        self._fetch = fetch
        self._windows: OrderedDict[int, Future[bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes; raises what `fetch` raises, and SourceChangedError behind the end."""
        if offset + length > self.size:
            raise SourceChangedError(self._which, f"{length} bytes at {offset}", f"{self.size} in all")
        parts = []
        at, end = offset, offset + length
        while at < end:
            number = at // WINDOW
            start = at - number * WINDOW
            part = self._window(number)[start : start + end - at]
            parts.append(part)
            at += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def extents(self, offset: int, length: int) -> list[Extent]:
        """All data: a server of files does not tell holes."""
        return [Extent(offset, length, zero=False)] if length else []

    def close(self) -> None:
        """Forget the windows."""
        with self._lock:
            self._windows.clear()

    def _window(self, number: int) -> bytes:
        with self._lock:
            future = self._windows.get(number)
            mine = future is None
            if future is None:
                future = self._windows[number] = Future()
                if len(self._windows) > _WINDOWS:
                    self._windows.popitem(last=False)
            else:
                self._windows.move_to_end(number)
        if mine:
            offset = number * WINDOW
            length = min(WINDOW, self.size - offset)
            try:
                data = retried(lambda: self._fetch(offset, length))
                if len(data) != length:
                    raise SourceChangedError(self._which, f"{length} bytes at {offset}", f"{len(data)}")
                future.set_result(data)
            except BaseException as error:
                with self._lock:
                    if self._windows.get(number) is future:
                        del self._windows[number]
                future.set_exception(error)
        return future.result()
