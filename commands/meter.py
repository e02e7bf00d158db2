"""Progress on a terminal: bytes, rate, time left."""

import sys
import time
from types import TracebackType

from darkroom.units import duration, size

__all__ = ["Meter", "duration", "size"]
_INTERVAL = 0.2


def _bytes(done: int, total: int, rate: float) -> str:
    return f"{size(done)} of {size(total)}, {size(rate)}"


class Meter:
    """One line on standard error, rewritten as work goes on; silent where that is no terminal.

    It counts bytes, or things whose name is `unit`.
    """

    def __init__(self, unit: str = "") -> None:
        self._unit = unit
        self._shown = sys.stderr.isatty()
        self._step = ""
        self._started = 0.0
        self._base = 0
        self._drawn = 0.0

    def update(self, step: str, done: int, total: int) -> None:
        """Show `done` of `total` bytes of a step; a new step starts a new rate."""
        now = time.monotonic()
        if step != self._step:
            self._step, self._started, self._base, self._drawn = step, now, done, 0.0
        if not self._shown or (now - self._drawn < _INTERVAL and done < total):
            return
        self._drawn = now
        rate = (done - self._base) / max(now - self._started, 1e-3)
        left = f", {duration((total - done) / rate)} left" if rate and done < total else ""
        share = f"{100 * done // total:3d} %" if total else ""
        amounts = f"{done} of {total} {self._unit}, {rate:.3g}" if self._unit else _bytes(done, total, rate)
        print(f"\r\x1b[K{step} {share} {amounts}/s{left}", end="", file=sys.stderr)

    def __enter__(self) -> "Meter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if self._shown and self._drawn:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
