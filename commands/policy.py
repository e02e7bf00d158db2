"""`darkroom policy`: what is done with a project's images and keys as they age."""

import argparse
import dataclasses
import json
import sys
from typing import Any

from commands.flow import run_flow
from darkroom import batch, policy
from darkroom.settings import Settings
from darkroom.systems import open_systems

_RULES = {
    "deprecate_after": ("DAYS", "deprecate images that have been active for so long"),
    "delete_after": ("DAYS", "delete images that have been active for so long"),
    "keep_last": ("NUMBER", "keep so many images of each family, and delete the others"),
    "check_minutes": ("MINUTES", "check the least lately checked images again, for so long in each run"),
    "rotate_after": ("DAYS", "rotate keys whose version is so old"),
}


def add_commands(commands: Any) -> None:
    """Add the parsers of this module."""
    group = commands.add_parser("policy", help="what is done with images and keys as they age").add_subparsers(
        required=True, metavar="COMMAND"
    )
    parser = group.add_parser("set", help="change the rules of the project; 0 takes one away")
    for name, (unit, help) in _RULES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, metavar=unit, help=help)
    parser.set_defaults(run=set_)
    parser = group.add_parser("show", help="show the rules of the project")
    parser.set_defaults(run=show)
    parser = group.add_parser("apply", help="do what the rules ask for")
    parser.add_argument("--dry-run", action="store_true", help="print the plan, and change nothing")
    parser.set_defaults(run=apply)
    for parser in group.choices.values():
        parser.add_argument("--json", action="store_true", help="print one JSON value")


def set_(options: argparse.Namespace) -> int:
    """Change the rules that are given; prints all."""
    changes = {name: getattr(options, name) for name in _RULES if getattr(options, name) is not None}
    with open_systems(Settings()) as systems:
        return _print(policy.set_rules(systems, changes), options)


def show(options: argparse.Namespace) -> int:
    """Print the rules."""
    with open_systems(Settings()) as systems:
        return _print(policy.rules(systems), options)


def apply(options: argparse.Namespace) -> int:
    """Do what the rules ask for, or print what that is: a line for each image and key."""
    try:
        result = run_flow("apply_policy", {"dry_run": options.dry_run}, Settings())
    except batch.BatchError as error:
        result = {"results": error.results}
    rows = result["steps"] if options.dry_run else result["results"]
    if options.json:
        print(json.dumps(rows))
    for row in rows if not options.json else []:
        what = row["action"] if options.dry_run else row["outcome"]
        print(f"{row['image'] or 'key'}  {row['name']}: {what}, {row['reason']}")
    refused = [row for row in rows if row.get("outcome") == batch.REFUSED]
    for row in refused:
        print(f"darkroom: {row['message']}", file=sys.stderr)
    return int(refused[0]["exit_code"]) if refused else 0


def _print(rules: policy.Rules, options: argparse.Namespace) -> int:
    values = dataclasses.asdict(rules)
    if options.json:
        print(json.dumps(values))
        return 0
    for name, value in values.items():
        unit = _RULES[name][0].lower() if value else ""
        print(f"{name.replace('_', ' '):16} {value or 'no'} {unit}".rstrip())
    return 0
