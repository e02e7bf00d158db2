"""`darkroom key`, `rekey` and `replicate`: a project's keys, which an image is under, and copies under others."""

import argparse
import dataclasses
import json
import sys
from typing import Any

from commands import browse, meter
from commands.flow import run_flow
from darkroom import keyring
from darkroom.replicating import ReplicateRequest
from darkroom.settings import Settings
from darkroom.systems import open_systems

_COLUMNS = ("name", "state", "rotating", "created_at")


def add_commands(commands: Any) -> None:
    """Add the parsers of this module."""
    group = commands.add_parser("key", help="create, list, rotate, disable and enable keys").add_subparsers(
        required=True, metavar="COMMAND"
    )
    for name, run, text in (
        ("create", create, "create a key-encryption key"),
        ("rotate", rotate, "make a new version, re-wrap all that is under the key, destroy the old version"),
        ("disable", disable, "forbid every use of the key, until it is enabled"),
        ("enable", enable, "allow the use of the key again"),
    ):
        parser = group.add_parser(name, help=text)
        parser.add_argument("name")
        parser.set_defaults(run=run)
        if name == "rotate":
            parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser = group.add_parser("list", help="list the project's keys and their states")
    parser.add_argument("--json", action="store_true", help="print one JSON array")
    parser.set_defaults(run=list_)

    parser = commands.add_parser("replicate", help="copy an image: own or accepted, to another key, or plain")
    parser.add_argument("image", help="an id, an unambiguous prefix of one, or a name")
    parser.add_argument("--name", required=True, help="the copy's name, unique in the project")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--key", default="", help="encrypt the copy under this key; by default it is as the source is")
    chosen.add_argument("--plain", action="store_true", help="do not encrypt the copy")
    parser.add_argument("--description", default="", help="by default the source's")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=replicate)

    parser = commands.add_parser("rekey", help="put an encrypted image under another key; no data is rewritten")
    parser.add_argument("image", help="an id, an unambiguous prefix of one, or a name")
    parser.add_argument("--key", required=True, help="the new key")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=rekey)


def create(options: argparse.Namespace) -> int:
    """Create a key; prints its name."""
    with open_systems(Settings()) as systems:
        keyring.create(systems, options.name)
    print(options.name)
    return 0


def list_(options: argparse.Namespace) -> int:
    """Print a table, or JSON, of the project's keys."""
    with open_systems(Settings()) as systems:
        rows = [dataclasses.asdict(key) for key in systems.keys.listed()]
    for row in rows:
        row["created_at"] = row["created_at"].isoformat(timespec="seconds")
    if options.json:
        print(json.dumps(rows))
    else:
        browse.print_table(rows, _COLUMNS)
    return 0


def rotate(options: argparse.Namespace) -> int:
    """Rotate a key; prints its name."""
    result = run_flow("rotate_key", {"key": options.name}, Settings())
    if options.json:
        print(json.dumps(result))
    else:
        print(f"{result['key']}: version {result['version']}, {result['rewrapped']} re-wrapped", file=sys.stderr)
        print(result["key"])
    return 0


def disable(options: argparse.Namespace) -> int:
    """Disable a key; prints its name."""
    return _set_enabled(options.name, enabled=False)


def enable(options: argparse.Namespace) -> int:
    """Enable a key; prints its name."""
    return _set_enabled(options.name, enabled=True)


def _set_enabled(name: str, *, enabled: bool) -> int:
    with open_systems(Settings()) as systems:
        keyring.set_enabled(systems, name, enabled)
    print(name)
    return 0


def rekey(options: argparse.Namespace) -> int:
    """Put an image under another key; prints its id."""
    result = run_flow("rekey_image", {"image": options.image, "key": options.key}, Settings())
    if options.json:
        print(json.dumps(result))
    else:
        print(f"{result['name']}: from key {result['old_key']} to {result['key']}", file=sys.stderr)
        print(result["image"])
    return 0


def replicate(options: argparse.Namespace) -> int:
    """Copy an image; prints the copy's id."""
    request = {name: getattr(options, name) for name in ("image", "name", "key", "plain", "description")}
    ReplicateRequest(**request).check()
    result = run_flow("replicate_image", request, Settings())
    if options.json:
        print(json.dumps(result))
    else:
        under = f"under key {result['key']}" if result["key"] else "plain"
        print(f"{result['name']}: {under}, new {meter.size(result['new_size'])}", file=sys.stderr)
        print(result["image"])
    return 0
