"""The page at the end of an operation, as an artifact in the Prefect UI."""

import re
from datetime import UTC, datetime
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.context import FlowRunContext

from darkroom import units

_SPECIAL = re.compile(r"([\\`*_\[\]<>|~#])")
_CODE = ("image", "content_digest", "sha256", "batch", "target", "report")


def publish(key: str, title: str, values: dict[str, Any]) -> None:
    """Show what an operation made: a sentence of what it saved, a table of names and values, what can be done next.

    A value whose name ends with `size` is bytes; one of "" or None is left out. `key` is the artifact's, lower case.
    """
    create_markdown_artifact(page(title, values, _seconds()), key=key, description=title)


def page(title: str, values: dict[str, Any], seconds: float | None = None) -> str:
    """The page as Markdown. What people and files named is shown as it is, and marks nothing up."""
    shown = {name: value for name, value in values.items() if value not in ("", None, {}, [])}
    rows = [f"| {name.replace('_', ' ')} | {_text(name, value)} |" for name, value in shown.items()]
    if seconds is not None:
        rows.append(f"| time | {units.duration(seconds) if seconds >= 10 else f'{seconds:.1f}s'} |")
    parts = [
        f"## {_escaped(title)}",
        _savings(values),
        "\n".join(["| what | value |", "|---|---|", *rows]),
        _next(values),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _savings(values: dict[str, Any]) -> str:
    """What deduplication and compression did, where sizes tell of it."""
    virtual, data, new = (values.get(name) for name in ("virtual_size", "allocated_size", "new_size"))
    if not (virtual and data and new is not None):
        return ""
    return (
        f"**{units.size(virtual)}** of disk, **{units.size(data)}** of data, **{units.size(new)}** new in the store: "
        f"{100 * (1 - new / data):.0f} % of the data did not have to be stored."
    )


def _next(values: dict[str, Any]) -> str:
    image = values.get("image")
    if not image:
        return ""
    return f"Next: `darkroom show {image}`, `darkroom check {image}`, `darkroom export {image} FILE`."


def publish_rows(key: str, title: str, rows: list[dict[str, Any]]) -> None:
    """Show rows as a table artifact."""
    create_table_artifact(rows, key=key, description=title)


def publish_checks(results: list[dict[str, Any]]) -> None:
    """Show what checks found as a table artifact, a row for each image."""
    rows = [
        {
            "image": result["name"],
            "id": result["image"],
            "chunks": result["chunks"],
            "found": "; ".join(finding["message"] for finding in result["findings"][:5]) or "well",
        }
        for result in results
    ]
    publish_rows("check", "Checked images", rows)


def publish_results(key: str, title: str, results: list[dict[str, Any]]) -> None:
    """Show the results of many images as a table artifact, a row each."""
    rows = [
        {
            "image": result["name"],
            "id": result["image"],
            "outcome": result["outcome"],
            "why": result.get("message") or result.get("reason", ""),
        }
        for result in results
    ]
    publish_rows(key, title, rows)


def _text(name: str, value: Any) -> str:
    if name.endswith("size") and isinstance(value, int):
        return f"{units.size(value)} ({value:,} bytes)" if value >= 1000 else f"{value} bytes"
    if isinstance(value, dict):
        return ", ".join(f"{_escaped(str(key))}: {_escaped(str(one))}" for key, one in value.items())
    if isinstance(value, list):
        return ", ".join(_escaped(str(one)) for one in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = str(value)
    return f"`{text}`" if name in _CODE and not set(text) & set("`|\n") else _escaped(text)


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _seconds() -> float | None:
    """How long the run has taken so far."""
    context = FlowRunContext.get()
    started = context.flow_run.start_time if context and context.flow_run else None
    return (datetime.now(UTC) - started).total_seconds() if started else None
