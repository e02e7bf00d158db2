"""When a screen has settled on something: it shows more than a colour, and stays as it is but for a cursor."""

from dataclasses import dataclass, field

from darkroom.model import MiB

STILL = 10.0
"""Seconds for which it must not change."""
_CURSOR = 0.002
"""The share of pixels that may differ all the same."""
_CONTENT = 0.002
"""The share of pixels that are of another colour than the background."""
_MOST = 1 * MiB
_WIDTH = 1280


@dataclass(slots=True)
class Screen:
    """What a screen showed last, and since when."""

    since: float = 0.0
    _pixels: bytes = field(default=b"", repr=False)

    def show(self, png: bytes, now: float) -> bool:
        """Look at the screen at a time in seconds; whether it has settled."""
        pixels = _grey(png)
        if not _alike(pixels, self._pixels):
            self._pixels, self.since = pixels, now
            return False
        return now - self.since >= STILL and not _is_blank(pixels)


def _grey(png: bytes) -> bytes:
    import io  # noqa: PLC0415 - with pictures, which only a proof has

    from PIL import Image  # noqa: PLC0415

    with Image.open(io.BytesIO(png), formats=["PNG", "PPM"]) as image:
        return image.convert("L").tobytes()


def _alike(one: bytes, other: bytes) -> bool:
    import numpy  # noqa: PLC0415

    if len(one) != len(other):
        return False
    differ = numpy.frombuffer(one, "u1") != numpy.frombuffer(other, "u1")
    return bool(differ.mean() <= _CURSOR)


def _is_blank(pixels: bytes) -> bool:
    import numpy  # noqa: PLC0415

    counts = numpy.bincount(numpy.frombuffer(pixels, "u1"), minlength=256)
    return bool(counts.max() >= len(pixels) * (1 - _CONTENT))


def compact(png: bytes) -> bytes:
    """The picture as a PNG of at most a mebibyte: scaled down where it is larger."""
    import io  # noqa: PLC0415

    from PIL import Image  # noqa: PLC0415

    width = _WIDTH
    with Image.open(io.BytesIO(png), formats=["PNG", "PPM"]) as image:
        while True:
            found = image.convert("RGB")
            found.thumbnail((width, width))
            written = io.BytesIO()
            found.save(written, "PNG", optimize=True)
            if written.tell() <= _MOST:
                return written.getvalue()
            width //= 2
