"""`darkroom migrate`: all that a table of sources names becomes images."""

import argparse
import json
import os
import sys
from typing import Any

from commands import meter
from commands.flow import run_flow
from darkroom.migration import batch
from darkroom.migration.table import TableInvalidError
from darkroom.settings import Settings
from darkroom.systems import open_systems

_FINDINGS = 1


def add_commands(commands: Any) -> None:
    """Add the parser of this module."""
    parser = commands.add_parser("migrate", help="import all that a table of sources names")
    parser.add_argument("table", help="a CSV file: a path, s3://bucket/key or http(s)://…")
    parser.add_argument("--report", default="", help="a CSV file to write, row by row; a path or s3://bucket/key")
    parser.add_argument("--concurrency", type=int, default=4, metavar="N", help="imports at once in each worker")
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="share it with N - 1 workers of the work pool"
    )
    parser.add_argument("--dry-run", action="store_true", help="check the table, and what it names, and import nothing")
    parser.add_argument("--retry-failed", action="store_true", help="try the rows again that failed before")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=migrate)


def migrate(options: argparse.Namespace) -> int:
    """Import the rows of a table; prints the report's place, or the batch's id. Exit code 1 if a row failed."""
    settings = Settings()
    source, report = _place(options.table), _place(options.report)
    try:
        with open_systems(settings) as systems:
            rows = batch.read_table(systems, source, report)
            plan = batch.plan(systems, rows, report) if options.dry_run else None
    except TableInvalidError as error:
        print(error.found, file=sys.stderr)
        raise TableInvalidError(error.which, "", f"{len(error.found.splitlines())} errors") from None
    if plan is not None:
        return _told(options, plan, f"{len(rows)} rows: {_counts(plan)}; nothing was imported", options.report)
    names = ("concurrency", "workers", "retry_failed")
    request = {"source": source, "report": report, **{name: getattr(options, name) for name in names}}
    result = run_flow("migrate_images", request, settings, meter.Meter("rows"))
    words = f"{_counts(result)} of {result['rows']} rows, {meter.size(result['virtual_size'])}"
    return _told(options, result, f"{words}, new {meter.size(result['new_size'])}", report or result["batch"])


def _told(options: argparse.Namespace, result: dict[str, Any], words: str, printed: str) -> int:
    if options.json:
        print(json.dumps(result))
    else:
        print(words, file=sys.stderr)
        for code, count in sorted(result["failures"].items()):
            print(f"  {code}: {count}", file=sys.stderr)
        if printed:
            print(printed)
    return _FINDINGS if result["failed"] or result.get("left") else 0


def _counts(result: dict[str, Any]) -> str:
    shown = ("ready", "done", "failed", "left")
    return ", ".join(f"{result[name]} {name}" for name in shown if result.get(name)) or "none"


def _place(name: str) -> str:
    return name if "://" in name or not name else os.path.abspath(name)
