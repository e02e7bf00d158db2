"""`darkroom report`: the list of images as a CSV file."""

import argparse
import json
import os
import sys
from typing import Any

from commands import filters
from commands.flow import run_flow
from darkroom import reporting, units
from darkroom.settings import Settings


def add_commands(commands: Any) -> None:
    """Add the parser of this module."""
    parser = commands.add_parser("report", help="write the list of images as a CSV file for spreadsheets")
    parser.add_argument("target", help="a path or s3://bucket/key, which is replaced")
    columns = f"of {', '.join(reporting.COLUMNS)}; by default the first ten, as IMS lists them"
    parser.add_argument("--columns", default="", metavar="A,B,…", help=columns)
    filters.add_options(parser, whose=False)
    parser.add_argument("--all-projects", action="store_true", help="the images of all projects; for the operator")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=report)


def report(options: argparse.Namespace) -> int:
    """Write the report; prints where it is."""
    which = filters.filter_of(options)
    request: dict[str, Any] = {
        name: list(getattr(which, name)) for name in ("tags", "any_tags", "not_tags", "statuses", "types")
    }
    request |= {"system": which.system, "name": which.name, "family": which.family}
    target = options.target if "://" in options.target else os.path.abspath(options.target)
    columns = [name for name in options.columns.split(",") if name]
    reporting.check_columns(columns)
    result = run_flow(
        "report_images",
        {"target": target, "columns": columns, "all_projects": options.all_projects, **request},
        Settings(),
    )
    if options.json:
        print(json.dumps(result))
    else:
        print(f"{result['images']} images, {units.size(result['size'])}", file=sys.stderr)
        print(result["target"])
    return 0
