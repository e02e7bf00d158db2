"""The picture of a usage report: what is stored, by project and family, and how it grew."""

import base64
import io
import math
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from darkroom import units

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_UNIQUE, _SAVED, _INK, _FAINT = "#0f766e", "#a7d8d2", "#1f2937", "#6b7280"
_BARS = 10


def draw(usage: dict[str, list[dict[str, Any]]], title: str) -> bytes:
    """A PNG of what `usage.usage` returns."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - a second that no other command should pay

    figure = Figure(figsize=(12, 7.6), dpi=110, facecolor="white", layout="constrained")
    figure.get_layout_engine().set(w_pad=0.18, h_pad=0.14)  # type: ignore[union-attr,call-arg]
    figure.suptitle(f"{title}\n{_sentence(usage['projects'])}", x=0.02, ha="left", fontsize=15, color=_INK)
    grid = figure.add_gridspec(2, 2, height_ratios=(1.15, 1))
    _bars(figure.add_subplot(grid[0, 0]), usage["projects"], "By project", "(none)")
    _bars(figure.add_subplot(grid[0, 1]), usage["families"], "By family", "no family")
    _growth(figure.add_subplot(grid[1, :]), usage["growth"])
    handles = [
        Figure().subplots().bar(0, 0, color=color, label=label)
        for color, label in ((_UNIQUE, "unique: what the store holds"), (_SAVED, "deduplicated: what it need not hold"))
    ]
    figure.legend(handles=handles, loc="upper right", frameon=False, fontsize=10, labelcolor=_INK)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def data_uri(png: bytes) -> str:
    """The picture as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _sentence(projects: list[dict[str, Any]]) -> str:
    images, stored, unique = (sum(row[name] for row in projects) for name in ("images", "stored", "unique"))
    if not stored:
        return "nothing is stored yet"
    saved = f"{100 * (1 - unique / stored):.0f} % saved by deduplication"
    return f"{images:,} images of {units.size(stored)} stored in {units.size(unique)}: {saved}"


def _bars(axes: "Axes", rows: list[dict[str, Any]], title: str, nameless: str) -> None:
    """The largest ones, and what is left as one bar."""
    shown = rows[:_BARS]
    if len(rows) > _BARS + 1:
        names = ("unique", "deduplicated", "stored")
        rest = {name: sum(row[name] for row in rows[_BARS:]) for name in names}
        shown = [*shown, {"name": f"{len(rows) - _BARS} others", **rest}]
    _bare(axes, title)
    places = range(len(shown))
    unique = [row["unique"] for row in shown]
    axes.barh(places, unique, color=_UNIQUE, height=0.62)
    axes.barh(places, [row["deduplicated"] for row in shown], left=unique, color=_SAVED, height=0.62)
    for place, row in enumerate(shown):
        saved = f", {100 * row['deduplicated'] / row['stored']:.0f} % saved" if row["deduplicated"] else ""
        end = (row["unique"] + row["deduplicated"], place)
        text = f"{units.size(row['unique'])}{saved}"
        axes.annotate(text, end, (6, 0), textcoords="offset points", va="center", fontsize=9, color=_FAINT)
    axes.set_yticks(list(places), [_short(row["name"] or nameless) for row in shown])
    axes.set_ylim(max(len(shown), 6) - 0.5, -0.5)
    axes.set_xlim(0, 1.45 * max([row["unique"] + row["deduplicated"] for row in shown], default=1) or 1)
    axes.set_xticks([])


def _growth(axes: "Axes", rows: list[dict[str, Any]]) -> None:
    """Two areas over time: all that was stored, and what was unique of it when it came; level until the next day."""
    from matplotlib import dates  # noqa: PLC0415

    _bare(axes, "Growth")
    if not rows:
        axes.set_xticks([])
        axes.set_yticks([])
        return
    days = [row["day"] for row in rows]
    days.append(days[-1] + timedelta(days=1))
    unique, stored = ([float(row[name]) for row in (*rows, rows[-1])] for name in ("unique", "stored"))
    axes.fill_between(days, unique, stored, step="post", color=_SAVED, linewidth=0)
    axes.fill_between(days, 0, unique, step="post", color=_UNIQUE, linewidth=0)
    top = max(*stored, 1.0)
    step = 2.0 ** math.floor(math.log2(top) - 1.5)
    ticks = [step * number for number in range(1, int(top / step) + 1)]
    axes.set_yticks(ticks, [units.size(tick) for tick in ticks])
    axes.set_ylim(0, 1.05 * top)
    axes.margins(x=0)
    axes.grid(axis="y", color="white", linewidth=0.8, alpha=0.5)
    dated = days[:: max(1, -(-len(days) // 8))]
    axes.set_xticks(dates.date2num(dated), [f"{day.day} {day:%b %Y}" for day in dated])  # type: ignore[no-untyped-call]


def _bare(axes: "Axes", title: str) -> None:
    axes.set_title(title, loc="left", fontsize=12, color=_INK, fontweight="bold")
    axes.spines[["top", "right", "bottom", "left"]].set_visible(False)
    axes.tick_params(length=0, colors=_INK, labelsize=10)


def _short(name: str) -> str:
    return name if len(name) <= 22 else name[:21] + "…"
