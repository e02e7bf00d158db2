"""`darkroom list`, `show` and `check`: they only read, and do not start Prefect."""

import argparse
import json
import math
import sys
from typing import Any

from commands import filters, meter
from darkroom import check
from darkroom.catalog import Row, images, listing
from darkroom.printable import printable
from darkroom.settings import Settings
from darkroom.systems import open_systems

_COLUMNS = ("id", "name", "status", "type", "encrypted", "virtual_size", "stored_size", "new_size", "created_at")
_TIMES = ("created_at", "updated_at", "active_at", "checked_at", "deprecated_at", "boot_verified_at")
_ORDERS = ", ".join(listing.SORTS)
_FINDINGS = 1


def add_commands(commands: Any) -> None:
    """Add the parsers of this module."""
    parser = commands.add_parser("list", help="list the images of the project, and those that others share with it")
    filters.add_options(parser)
    parser.add_argument("--sort", default="created_at:desc", metavar="ORDER", help=f"{_ORDERS}, each also with :desc")
    parser.add_argument("--limit", type=int, default=500, help="at most so many (default: %(default)s)")
    parser.add_argument("--marker", default="", metavar="ID", help="go on behind this image")
    parser.add_argument("--json", action="store_true", help="print a JSON array")
    parser.set_defaults(run=list_)
    parser = commands.add_parser("show", help="show an image")
    parser.add_argument("image", help="an id, an unambiguous prefix of one, or a name")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=show)
    parser = commands.add_parser("check", help="read back and verify all that an image stands on")
    parser.add_argument("image", nargs="?", default="", help="an id, a prefix of one, or a name; by default all images")
    parser.add_argument("--json", action="store_true", help="print a JSON array")
    parser.set_defaults(run=check_)


def list_(options: argparse.Namespace) -> int:
    """Print a page of images as a table or as JSON."""
    which = filters.filter_of(options)
    with open_systems(Settings()) as systems:
        found = listing.page(systems.catalog, which, options.sort, options.limit, options.marker)
    rows = [public(row) for row in found]
    if options.json:
        print(json.dumps(rows))
        return 0
    for row in rows:
        row["status"] += " (deprecated)" if row["deprecated_at"] else ""
    with_owner = which.whose == "shared" or any(row["owner"] for row in rows)
    print_table(rows, (*_COLUMNS, "owner") if with_owner else _COLUMNS)
    if len(rows) == options.limit:
        print(f"there may be more: --marker {rows[-1]['id']}", file=sys.stderr)
    return 0


def show(options: argparse.Namespace) -> int:
    """Print all that is known of one image."""
    with open_systems(Settings()) as systems:
        row = images.find(systems.catalog, options.image)
        detail = images.detail(systems.catalog, row["id"])
    disks = [
        {key: value.hex() if isinstance(value, bytes) else value for key, value in disk.items() if key != "image_id"}
        for disk in detail["disks"]
    ]
    last = detail["proof"]
    proof = last and f"{last['how'] or last['reason']}, {last['seconds']:.1f} s"
    image = public({**row, "tags": detail["tags"], "owner": detail["owner"]})
    shown = {**image, "boot_proof": proof, "disks": disks, "packs": detail["packs"]}
    if options.json:
        print(json.dumps(shown))
        return 0
    width = max(map(len, shown))
    for name, value in shown.items():
        text = meter.size(value) if name.endswith("_size") else _text(value)
        print(f"{name:<{width}}  {text}")
    return 0


def check_(options: argparse.Namespace) -> int:
    """Verify one image or all; exit code 1 with findings."""
    with open_systems(Settings()) as systems, meter.Meter() as shown:
        results = check.check_images(systems, options.image, math.inf, shown.update)
    damaged = [result for result in results if result["findings"]]
    if options.json:
        print(json.dumps(results))
        return _FINDINGS if damaged else 0
    for result in results:
        verdict = f"{len(result['findings'])} findings" if result["findings"] else "well"
        print(f"{result['image']}  {result['name']}: {result['chunks']} chunks, {verdict}")
        for finding in result["findings"]:
            print(f"  {finding['message']}", file=sys.stderr)
    return _FINDINGS if damaged else 0


def public(row: Row) -> dict[str, Any]:
    """An image's row as JSON for people and scripts: no keys, no internals. `owner` is null for the project's own."""
    names = ("name", "status", "type", "description", "source", "source_format")
    sizes = ("virtual_size", "allocated_size", "stored_size", "new_size")
    return {
        "id": str(row["id"]),
        **{name: row[name] for name in names},
        "owner": row["owner"],
        "encrypted": row["key_name"] is not None,
        "key": row["key_name"],
        **{name: row[name] for name in sizes},
        "content_digest": row["content_digest"].hex() if row["content_digest"] else None,
        "family": row["family"],
        "protected": row["protected"],
        "version": row["version"],
        "replaced_by": str(row["replaced_by"]) if row["replaced_by"] else None,
        "properties": row["properties"],
        "tags": row["tags"],
        "failure": row["failure"],
        **{name: row[name].isoformat() if row[name] else None for name in _TIMES},
    }


def print_disks(rows: list[dict[str, Any]], columns: tuple[str, ...], *, as_json: bool) -> None:
    """Print what has a `size` of which so much is `hydrated`, as a table or as JSON."""
    if as_json:
        print(json.dumps(rows))
        return
    print_table(
        [
            {**row, "size": meter.size(row["size"]), "hydrated": f"{100 * row['hydrated'] // max(row['size'], 1)} %"}
            for row in rows
        ],
        columns,
    )


def print_table(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    """Print aligned columns under a header; sizes for people, the rest as text."""
    cells = [[_cell(name, row[name]) for name in columns] for row in rows]
    header = [name.removesuffix("_at").replace("_", " ").upper() for name in columns]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    for line in [header, *cells]:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())


def _cell(name: str, value: Any) -> str:
    if name.endswith("_size"):
        return meter.size(value)
    if name.endswith("_at"):
        return str(value)[:19].replace("T", " ") if value else "-"
    return _text(value)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict | list):
        return json.dumps(value)
    return "-" if value is None else printable(str(value))
