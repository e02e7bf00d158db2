"""Sizes and times in words for people."""

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size(number: float | None) -> str:
    """A number of bytes for people: three digits and a binary unit."""
    if number is None:
        return "-"
    value, unit = float(number), 0
    while value >= 1000 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.0f} B" if unit == 0 else f"{value:.3g} {_UNITS[unit]}"


def duration(seconds: float) -> str:
    """A time for people: 9s, 4m05s, 2h03m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
