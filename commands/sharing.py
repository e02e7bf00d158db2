"""`darkroom share`, `unshare`, `shares`, `accept` and `reject`."""

import argparse
import json
import sys
from typing import Any

from commands.browse import print_table
from commands.flow import run_flow
from darkroom import sharing
from darkroom.catalog import Row
from darkroom.settings import Settings
from darkroom.systems import open_systems

_FAILED = 1
_OUTGOING = ("image_id", "name", "member", "status", "created_at", "answered_at")
_INCOMING = ("image_id", "name", "owner", "status", "type", "encrypted", "virtual_size", "created_at")


def add_commands(commands: Any) -> None:
    """Add the parsers of this module."""
    for name, text in (
        ("share", "share an image with other projects"),
        ("unshare", "end the sharing of an image; the members cannot open it any more"),
    ):
        parser = commands.add_parser(name, help=text)
        parser.add_argument("image", help="an id, an unambiguous prefix of one, or a name")
        parser.add_argument(
            "--with", dest="projects", action="append", required=True, metavar="PROJECT", help="may be repeated"
        )
        parser.add_argument("--json", action="store_true", help="print a JSON array, one object a project")
        parser.set_defaults(run=change, flow=f"{name}_image")
    for name, text in (
        ("accept", "accept an image that another project shares"),
        ("reject", "reject an image that another project shares, also after it was accepted"),
    ):
        parser = commands.add_parser(name, help=text)
        parser.add_argument("image", help="an id, an unambiguous prefix of one, or a name")
        if name == "accept":
            parser.add_argument("--key", default="", help="wrap the data key by this key of the project")
        parser.add_argument("--json", action="store_true", help="print one JSON object")
        parser.set_defaults(run=answer, answer=name, key="")
    parser = commands.add_parser("shares", help="list with whom images are shared")
    parser.add_argument("--incoming", action="store_true", help="what other projects share with this one")
    parser.add_argument("--json", action="store_true", help="print a JSON array")
    parser.set_defaults(run=list_)


def change(options: argparse.Namespace) -> int:
    """Share or unshare; prints the image's id, and what became of each project. Exit code 1 if it failed for some."""
    request = {"image": options.image, "projects": options.projects}
    results = run_flow(options.flow, request, Settings())["projects"]
    if options.json:
        print(json.dumps(results))
    else:
        for row in results:
            print(row.get("message") or f"{row['name']}: {row['outcome']} ({row['project']})", file=sys.stderr)
        for image in {row["image"] for row in results if "image" in row}:
            print(image)
    return _FAILED if any("message" in row for row in results) else 0


def answer(options: argparse.Namespace) -> int:
    """Accept or reject; prints the image's id."""
    request = {"image": options.image, "answer": options.answer, "key": options.key}
    result = run_flow("answer_share", request, Settings())
    if options.json:
        print(json.dumps(result))
    else:
        print(f"{result['name']}, shared by {result['project']}: {result['outcome']}", file=sys.stderr)
        print(result["image"])
    return 0


def list_(options: argparse.Namespace) -> int:
    """Print a table, or JSON, newest first."""
    with open_systems(Settings()) as systems:
        rows = (sharing.incoming if options.incoming else sharing.outgoing)(systems.catalog)
    columns = _INCOMING if options.incoming else _OUTGOING
    if options.json:
        print(json.dumps([_public(row, columns) for row in rows]))
    else:
        print_table(rows, columns)
    return 0


def _public(row: Row, columns: tuple[str, ...]) -> dict[str, Any]:
    values = {name: row[name] for name in columns}
    return {
        name: str(value) if name == "image_id" else value.isoformat() if value and name.endswith("_at") else value
        for name, value in values.items()
    }
