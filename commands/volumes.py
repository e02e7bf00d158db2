"""`darkroom volume`: data disks from images, which servers get and give back."""

import argparse
import json
import sys
from typing import Any

from commands.browse import print_disks
from commands.flow import run_flow
from darkroom.settings import Settings
from darkroom.systems import open_systems

_COLUMNS = ("name", "status", "host", "size", "hydrated", "server", "target", "encrypted", "id")


def add_commands(commands: Any) -> None:
    """Add the parsers of this module."""
    group = commands.add_parser("volume", help="data disks from images").add_subparsers(
        required=True, metavar="COMMAND"
    )
    parser = group.add_parser("create", help="make a volume from an image; it can be attached at once")
    parser.add_argument("image", help="an id, an unambiguous prefix of one, or a name")
    parser.add_argument("--name", required=True, help="the volume's name, unique in the project")
    parser.add_argument("--host", default="", help="the compute host; by default the only one")
    parser.add_argument("--size", type=int, default=0, metavar="GIB", help="by default the image's")
    parser.add_argument("--number", type=int, default=0, help="which disk of the image; by default the first")
    parser.add_argument("--attach", default="", metavar="SERVER")
    parser.add_argument("--full-copy", action="store_true", help="copy the whole image first")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=create)
    parser = group.add_parser("list", help="list the volumes of the project")
    parser.add_argument("--json", action="store_true", help="print one JSON array")
    parser.set_defaults(run=list_)
    for name, run, text in (
        ("attach", attach, "give a volume to a server, while it runs or not"),
        ("detach", detach, "take a volume from its server"),
        ("delete", delete, "remove a volume that no server has"),
    ):
        parser = group.add_parser(name, help=text)
        parser.add_argument("volume", help="a name or an id")
        if name == "attach":
            parser.add_argument("server", help="a name or an id")
        parser.add_argument("--json", action="store_true", help="print one JSON object")
        parser.set_defaults(run=run)


def create(options: argparse.Namespace) -> int:
    """Create a volume; prints its id."""
    names = ("image", "name", "host", "size", "number", "attach", "full_copy")
    _print(options, run_flow("create_volume", {name: getattr(options, name) for name in names}, Settings()))
    return 0


def list_(options: argparse.Namespace) -> int:
    """Print a table, or JSON, of the volumes by name."""
    from darkroom import volumes  # noqa: PLC0415 - libvirt is for these commands alone

    with open_systems(Settings()) as systems:
        rows = volumes.listed(systems)
    print_disks(rows, _COLUMNS, as_json=options.json)
    return 0


def attach(options: argparse.Namespace) -> int:
    """Attach a volume; prints its id."""
    _print(options, run_flow("attach_volume", {"volume": options.volume, "server": options.server}, Settings()))
    return 0


def detach(options: argparse.Namespace) -> int:
    """Detach a volume; prints its id."""
    _print(options, run_flow("detach_volume", {"volume": options.volume}, Settings()))
    return 0


def delete(options: argparse.Namespace) -> int:
    """Delete a volume; prints its id."""
    result = run_flow("delete_volume", {"volume": options.volume}, Settings())
    _print(options, {**result, "id": result["volume"], "status": "deleted", "server": None})
    return 0


def _print(options: argparse.Namespace, result: dict[str, Any]) -> None:
    if options.json:
        print(json.dumps(result))
        return
    where = f", at {result['server']} as {result['target']}" if result["server"] else ""
    print(f"{result['name']}: {result['status']}{where}", file=sys.stderr)
    print(result["id"])
