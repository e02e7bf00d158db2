"""`darkroom capture` and `boot-test`, each by its flow; `darkroom proof`, which only reads."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from commands import meter
from commands.flow import run_flow
from commands.transfer import summary, tags
from darkroom.catalog import images
from darkroom.printable import printable
from darkroom.settings import Settings
from darkroom.systems import open_systems


def add_commands(commands: Any) -> None:
    """Add the parsers of this module."""
    parser = commands.add_parser("capture", help="make an image of a server, running or stopped")
    parser.add_argument("server", help="a name or an id; or a libvirt domain that others made, if you may")
    parser.add_argument("--name", required=True, help="the image's name, unique in the project")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--disk", default="", help="a disk by its name in the server, such as vdb; default: the first")
    which.add_argument("--all-disks", action="store_true", help="all disks at one instant, as a full-server image")
    parser.add_argument("--key", default="", help="encrypt under this key-encryption key")
    parser.add_argument("--since", default="", metavar="IMAGE", help="an earlier capture: read only what has changed")
    parser.add_argument("--host", default="", help="the compute host of a domain that others made")
    parser.add_argument("--description", default="")
    parser.add_argument("--tag", action="append", default=[], metavar="KEY=VALUE", dest="tags")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=capture)

    parser = commands.add_parser("boot-test", help="boot an image in a throw-away guest, and keep what it showed")
    parser.add_argument("image", help="an id, an unambiguous prefix of one, or a name")
    parser.add_argument("--host", default="", help="the compute host, where there are several")
    parser.add_argument("--text", default="", help="what must appear on the serial port, in place of a login prompt")
    parser.add_argument("--seconds", type=int, default=600, help="to have booted; default 600")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=boot_test)

    parser = commands.add_parser("proof", help="show the last boot proof of an image")
    parser.add_argument("image", help="an id, an unambiguous prefix of one, or a name")
    parser.add_argument("--screenshot", metavar="FILE", help="write the screen to this PNG file")
    parser.add_argument("--serial", action="store_true", help="print the last of the serial port's output")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=proof)


def capture(options: argparse.Namespace) -> int:
    """Capture a server; print the image's id last."""
    names = ("server", "name", "disk", "all_disks", "key", "since", "host", "description")
    request = {**{name: getattr(options, name) for name in names}, "tags": tags(options.tags)}
    result = run_flow("capture_server", request, Settings())
    if options.json:
        print(json.dumps(result))
    else:
        print(summary(result), file=sys.stderr)
        print(result["image"])
    return 0


def boot_test(options: argparse.Namespace) -> int:
    """Prove that an image boots; print its id."""
    names = ("image", "host", "text", "seconds")
    request = {name: getattr(options, name) for name in names}
    result = run_flow("prove_boot", request, Settings(), meter.Meter("s"))
    if options.json:
        print(json.dumps(result))
    else:
        print(f"{result['how']} after {result['seconds']} s", file=sys.stderr)
        print(result["image"])
    return 0


def proof(options: argparse.Namespace) -> int:
    """Show a proof, and what the guest showed."""
    from darkroom import proving  # noqa: PLC0415 - it loads libvirt

    with open_systems(Settings()) as systems:
        row = images.find(systems.catalog, options.image)
        result = proving.shown(systems, row["id"])
        serial, picture = proving.seen(systems, row)
    if options.screenshot:
        Path(options.screenshot).write_bytes(picture)
    if options.serial:
        result["serial"] = serial.decode(errors="replace")
    if options.json:
        print(json.dumps(result))
        return 0
    print(f"{row['name']}: {result['how']}; {result['seconds']} s, at {result['at'][:19]}", file=sys.stderr)
    if options.serial:
        print(printable(result["serial"], kept="\n"))
    return 0
