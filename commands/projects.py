"""`darkroom project`: who owns images. For the operator."""

import argparse
import json
from typing import Any

from commands import meter
from darkroom import projects, systems
from darkroom.catalog import Catalog
from darkroom.settings import Settings


def add_commands(commands: Any) -> None:
    """Add the parsers of this module."""
    group = commands.add_parser("project", help="create and list projects").add_subparsers(
        required=True, metavar="COMMAND"
    )
    parser = group.add_parser("create", help="create a project")
    parser.add_argument("name")
    parser.set_defaults(run=create)
    parser = group.add_parser("window", help="set for how long a project can restore what it deletes")
    parser.add_argument("name")
    parser.add_argument("days", type=int, choices=range(3651), metavar="DAYS", help="0 to 3650; 7 at first")
    parser.set_defaults(run=window)
    parser = group.add_parser("list", help="list the projects, with their images and what they take in the store")
    parser.add_argument("--json", action="store_true", help="print one JSON array")
    parser.set_defaults(run=list_)


def create(options: argparse.Namespace) -> int:
    """Create a project; prints its name."""
    with _operator() as operator:
        projects.create(operator, options.name)
    print(options.name)
    return 0


def window(options: argparse.Namespace) -> int:
    """Set the window; prints the project's name."""
    with _operator() as operator:
        projects.set_window(operator, options.name, options.days)
    print(options.name)
    return 0


def list_(options: argparse.Namespace) -> int:
    """Print the projects, one a line."""
    with _operator() as operator:
        rows = projects.listed(operator)
    if options.json:
        print(json.dumps([{**row, "created_at": row["created_at"].isoformat()} for row in rows]))
        return 0
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        print(f"{row['name']:{width}}  {row['images']:5} images  {meter.size(row['stored_size']):>10}")
    return 0


def _operator() -> Catalog:
    return Catalog(systems.catalog_dsn(Settings()), None)
