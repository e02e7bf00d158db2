"""`darkroom import`, `export` and `reap`: each runs its flow in this process."""

import argparse
import json
import os
import sys
from typing import Any

from commands import meter
from commands.flow import run_flow
from darkroom import exporting, importing
from darkroom.catalog import images
from darkroom.settings import Settings
from darkroom.systems import open_systems


def add_commands(commands: Any) -> None:
    """Add the parsers of this module."""
    parser = commands.add_parser("import", help="import a disk image file")
    parser.add_argument("source", help="a path, s3://bucket/key, http(s)://…, or nbd://…")
    parser.add_argument("--name", required=True, help="the image's name, unique in the project")
    parser.add_argument("--key", default="", help="encrypt under this key-encryption key")
    parser.add_argument("--type", choices=("system", "data"), default="system")
    parser.add_argument("--format", default="", help="what the file must be; by default its name tells, or its header")
    parser.add_argument("--digest", default="", metavar="ALGORITHM:HEX", help="the publisher's digest of the file")
    parser.add_argument("--min-disk", type=int, default=0, metavar="GIB")
    parser.add_argument("--min-ram", type=int, default=0, metavar="MIB")
    parser.add_argument("--max-ram", type=int, default=0, metavar="MIB")
    parser.add_argument("--os-type", choices=("Linux", "Windows", "Other"), default="Other")
    parser.add_argument("--os-version", default="")
    parser.add_argument("--description", default="")
    parser.add_argument("--tag", action="append", default=[], metavar="KEY=VALUE", dest="tags")
    parser.add_argument("--quick", action="store_true", help="do not read back what was stored")
    parser.add_argument("--prove-boot", action="store_true", help="boot it first; what does not boot is no image")
    parser.add_argument("--host", default="", help="the compute host to boot it on, where there are several")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=import_)

    parser = commands.add_parser("reap", help="kill images whose import was given up a day ago")
    parser.add_argument("--all-projects", action="store_true", help="those of all projects; for the operator")
    parser.set_defaults(run=reap)

    parser = commands.add_parser("export", help="write an image to a file, with its SHA-256 beside it")
    parser.add_argument("image", help="an id, an unambiguous prefix of one, or a name")
    parser.add_argument(
        "target", help="a path or s3://bucket/key, which must not exist; a full-server image takes .ova"
    )
    parser.add_argument(
        "--format", choices=exporting.FORMATS, default="", help="qcow2; of a full-server image vmdk, of an ISO raw"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=export)


def reap(options: argparse.Namespace) -> int:
    """Kill images whose import was given up; prints their ids."""
    for image in run_flow("reap_images", {"all_projects": options.all_projects}, Settings())["images"]:
        print(image)
    return 0


def import_(options: argparse.Namespace) -> int:
    """Import a file; print the image's id last."""
    settings = Settings()
    source = options.source if "://" in options.source else os.path.abspath(options.source)
    names = ("name", "key", "type", "format", "digest", "min_disk", "min_ram", "max_ram", "os_type", "os_version")
    fields = {name: getattr(options, name) for name in (*names, "description", "quick")}
    request = {"source": source, **fields, "tags": tags(options.tags)}
    importing.ImportRequest(**request).check()
    result = run_flow("import_image", {**request, "prove_boot": options.prove_boot, "host": options.host}, settings)
    if options.json:
        print(json.dumps(result))
    else:
        print(summary(result), file=sys.stderr)
        print(result["image"])
    return 0


def export(options: argparse.Namespace) -> int:
    """Export an image to a file or an object."""
    settings = Settings()
    with open_systems(settings) as systems:
        image = images.find(systems.catalog, options.image)["id"]
    target = options.target if "://" in options.target else os.path.abspath(options.target)
    request = {"image": str(image), "target": target, "format": options.format}
    result = run_flow("export_image", request, settings)
    if options.json:
        print(json.dumps(result))
    else:
        print(f"{result['target']}: {meter.size(result['size'])}, sha256 {result['sha256']}", file=sys.stderr)
        print(result["target"])
    return 0


def tags(pairs: list[str]) -> dict[str, str]:
    """Tags from words such as team=web."""
    return {key: value for key, _, value in (pair.partition("=") for pair in pairs)}


def summary(result: dict[str, Any]) -> str:
    """An image that was made, in a line for people."""
    sizes = (f"{name} {meter.size(result[f'{name}_size'])}" for name in ("virtual", "allocated", "stored", "new"))
    return f"{result['name']}: {', '.join(sizes)}"
