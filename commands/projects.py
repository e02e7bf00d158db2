"""`darkroom project`: who owns images. Projects and their accounts are the operator's to make."""

import argparse
import json
import re
from typing import Any

from commands import meter
from commands.flow import OptionError
from darkroom import inbox, projects, quotas, sharing, systems
from darkroom.model import GiB, KiB, MiB, TiB
from darkroom.settings import Settings

_QUOTA_OPTIONS = (
    ("images", "N", "images that are neither killed nor deleted"),
    ("virtual", "SIZE", "their virtual sizes together, such as 500GiB"),
    ("stored", "SIZE", "bytes in the store, and what uploads under way may add"),
    ("operations", "N", "images that are being made at the same time"),
    ("members", "N", "members of one image"),
)
_COLUMNS = {"virtual": "virtual_size", "stored": "stored_size"}
_UNITS = {"": 1, "b": 1, "kib": KiB, "mib": MiB, "gib": GiB, "tib": TiB}


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
    parser = group.add_parser("quota", help="show what a project uses and may have, or change what it may have")
    parser.add_argument("name", nargs="?", default="", help="for the operator; by default the project that acts")
    for name, metavar, text in _QUOTA_OPTIONS:
        parser.add_argument(f"--{name}", type=_limit, metavar=metavar, help=f"{text}; none: no limit")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=quota)
    parser = group.add_parser("credentials", help="give a project an account of the catalog; prints its DSN, once")
    parser.add_argument("name", nargs="?", default="", help="a project")
    parser.add_argument("--operator", action="store_true", help="the operator's account in place of a project's")
    parser.set_defaults(run=credentials)
    parser = group.add_parser("inbox", help="the key with which the project receives the data keys of shared images")
    parser.add_argument("--key", required=True, help="a key of the project")
    parser.add_argument(
        "--renew", action="store_true", help="a new inbox, if its key is lost; what waits must be shared again"
    )
    parser.set_defaults(run=move_inbox)
    parser = group.add_parser("auto-accept", help="accept at once what an owner shares, or list these owners")
    parser.add_argument("owner", nargs="?", default="", help="a project")
    parser.add_argument("--stop", action="store_true", help="ask again from now on")
    parser.set_defaults(run=auto_accept)


def create(options: argparse.Namespace) -> int:
    """Create a project; prints its name."""
    with systems.operator_catalog(Settings()) as operator:
        projects.create(operator, options.name)
    print(options.name)
    return 0


def window(options: argparse.Namespace) -> int:
    """Set the window; prints the project's name."""
    with systems.operator_catalog(Settings()) as operator:
        projects.set_window(operator, options.name, options.days)
    print(options.name)
    return 0


def list_(options: argparse.Namespace) -> int:
    """Print the projects, one a line."""
    with systems.operator_catalog(Settings()) as operator:
        rows = projects.listed(operator)
    if options.json:
        print(json.dumps([{**row, "created_at": row["created_at"].isoformat()} for row in rows]))
        return 0
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        print(f"{row['name']:{width}}  {row['images']:5} images  {meter.size(row['stored_size']):>10}")
    return 0


def quota(options: argparse.Namespace) -> int:
    """Print a table, or JSON, of the quotas of a project, after the changes that are asked for."""
    given = {_COLUMNS.get(name, name): getattr(options, name) for name, _, _ in _QUOTA_OPTIONS}
    changes = {name: None if limit < 0 else limit for name, limit in given.items() if limit is not None}
    if options.name:
        with systems.operator_catalog(Settings()) as operator:
            if changes:
                quotas.change(operator, options.name, changes)
            found = quotas.shown(operator, options.name)
    elif changes:
        raise OptionError("NAME", "the project whose quotas change", "none")
    else:
        with systems.open_systems(Settings()) as to:
            found = quotas.shown(to.catalog, to.settings.project)
    if options.json:
        print(json.dumps(found))
        return 0
    print(f"{'QUOTA':<14}{'USE':>12}{'AT MOST':>12}")
    for name, row in found.items():
        shown = [_figure(name, row[column]) for column in ("use", "quota")]
        print(f"{name.replace('_', ' '):<14}{shown[0]:>12}{shown[1]:>12}")
    return 0


def _limit(text: str) -> int:
    """A number, with a unit of bytes or without; -1 for none."""
    if text == "none":
        return -1
    found = re.fullmatch(r"(\d+) ?([A-Za-z]*)", text)
    if not found or found[2].lower() not in _UNITS:
        raise argparse.ArgumentTypeError(f"{text}: a number, with B, KiB, MiB, GiB or TiB for bytes, or none")
    return int(found[1]) * _UNITS[found[2].lower()]


def _figure(name: str, value: int | None) -> str:
    if value is None:
        return "-"
    return meter.size(value) if name.endswith("size") else str(value)


def credentials(options: argparse.Namespace) -> int:
    """Print a DSN with a new password, which is kept nowhere; the one before it ends."""
    if bool(options.name) == options.operator:
        raise OptionError("NAME", "a project, or --operator", "both" if options.name else "neither")
    dsn = systems.catalog_dsn(Settings())
    with systems.operator_catalog(Settings()) as operator:
        print(projects.credentials(operator, dsn, options.name))
    return 0


def move_inbox(options: argparse.Namespace) -> int:
    """Make the inbox, or put it under another key; prints the key's name."""
    with systems.open_systems(Settings()) as found:
        inbox.move(found.catalog, found.keys, options.key, renew=options.renew)
    print(options.key)
    return 0


def auto_accept(options: argparse.Namespace) -> int:
    """Trust an owner, or no longer; prints the owners that are trusted, one a line."""
    with systems.open_systems(Settings()) as found:
        if options.owner:
            sharing.trust(found.catalog, options.owner, trusted=not options.stop)
        for owner in sharing.trusted(found.catalog):
            print(owner)
    return 0
