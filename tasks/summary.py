"""The page at the end of an operation: a table in the Prefect UI."""

from typing import Any

from prefect.artifacts import create_table_artifact


def publish(key: str, title: str, values: dict[str, Any]) -> None:
    """Show names and values as a table artifact."""
    rows = [{"what": name.replace("_", " "), "value": _text(name, value)} for name, value in values.items()]
    create_table_artifact(rows, key=key, description=title)


def publish_results(key: str, title: str, results: list[dict[str, Any]]) -> None:
    """Show the results of many images as a table artifact, a row each."""
    rows = [
        {"image": result["name"], "id": result["image"], "outcome": result["outcome"], "why": result.get("message", "")}
        for result in results
    ]
    create_table_artifact(rows, key=key, description=title)


def _text(name: str, value: Any) -> str:
    if name.endswith("size") and isinstance(value, int):
        return f"{value:,} bytes"
    return str(value)
