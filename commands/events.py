"""`darkroom events`: the audit log."""

import argparse
import json
from typing import Any

from commands.browse import print_table
from darkroom import audit, systems
from darkroom.catalog import Catalog
from darkroom.settings import Settings

_COLUMNS = ("at", "project", "client", "operation", "image_id", "outcome", "reason")


def add_commands(commands: Any) -> None:
    """Add the parsers of this module."""
    parser = commands.add_parser("events", help="the audit log: what was done, refused and read, newest first")
    parser.add_argument("image", nargs="?", default="", help="an image, also the id of one that is gone; default: all")
    parser.add_argument("--limit", type=int, default=100, help="at most so many events; default 100")
    parser.add_argument("--all-projects", action="store_true", help="for the operator")
    parser.add_argument("--json", action="store_true", help="print a JSON array")
    parser.set_defaults(run=list_)


def list_(options: argparse.Namespace) -> int:
    """Print a table, or JSON."""
    settings = Settings()
    project = None if options.all_projects else settings.project
    with Catalog(systems.catalog_dsn(settings), project) as catalog:
        rows = audit.listed(catalog, options.image, options.limit)
    if options.json:
        shown = [
            {**row, "at": row["at"].isoformat(), "image_id": row["image_id"] and str(row["image_id"])} for row in rows
        ]
        print(json.dumps(shown))
    else:
        print_table([{**row, "at": f"{row['at']:%Y-%m-%d %H:%M:%S}"} for row in rows], _COLUMNS)
    return 0
