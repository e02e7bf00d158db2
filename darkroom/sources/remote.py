"""Remote bytes as a Reader: fetched in windows, of which a few are kept."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future

from darkroom.model import Extent, MiB

WINDOW = 4 * MiB
_WINDOWS = 16


class WindowReader:
    """Reads by `fetch(offset, length)`, a window at a time; one request for a window however many want it."""

    def __init__(self, size: int, fetch: Callable[[int, int], bytes]) -> None:
        self.size = size
        self._fetch = fetch
        self._windows: OrderedDict[int, Future[bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes; raises what `fetch` raises."""
        parts = []
        at, end = offset, offset + length
        while at < end:
            number = at // WINDOW
            start = at - number * WINDOW
            part = self._window(number)[start : start + end - at]
            parts.append(part)
            at += len(part)
        return b"".join(parts)

    def extents(self, offset: int, length: int) -> list[Extent]:
        """All data: a server of files does not tell holes."""
        return [Extent(offset, length, zero=False)] if length else []

    def close(self) -> None:
        """Forget the windows."""
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
            try:
                future.set_result(self._fetch(offset, min(WINDOW, self.size - offset)))
            except BaseException as error:
                with self._lock:
                    self._windows.pop(number, None)
                future.set_exception(error)
        return future.result()
