"""`darkroom server`: servers from images, on compute hosts."""

import argparse
import codecs
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from commands import meter
from commands.browse import print_disks
from commands.flow import run_flow
from darkroom.printable import printable
from darkroom.settings import Settings
from darkroom.systems import open_systems

_COLUMNS = ("name", "status", "state", "host", "cpus", "memory", "size", "hydrated", "id")
_POLL = 0.3


def add_commands(commands: Any) -> None:
    """Add the parsers of this module."""
    group = commands.add_parser("server", help="servers from images").add_subparsers(required=True, metavar="COMMAND")
    _add_create(group.add_parser("create", help="start a server from an image; it runs at once"))
    parser = group.add_parser("list", help="list the servers of the project")
    parser.add_argument("--json", action="store_true", help="print one JSON array")
    parser.set_defaults(run=list_)
    for name, run, text in (
        ("show", show, "show a server and its disks"),
        ("start", start, "start a server that is stopped"),
        ("stop", stop, "stop a server; its guest is asked first"),
        ("delete", delete, "remove a server and its disks, whatever it does; volumes stay"),
        ("console", console, "print what the guest wrote to its serial port"),
        ("screenshot", screenshot, "write what its screen shows, as PNG"),
    ):
        parser = group.add_parser(name, help=text)
        parser.add_argument("server", help="a name or an id")
        if name in ("show", "start", "stop", "delete"):
            parser.add_argument("--json", action="store_true", help="print one JSON object")
        if name == "stop":
            parser.add_argument("--force", action="store_true", help="do not ask the guest: pull the plug")
        if name == "console":
            parser.add_argument("--follow", action="store_true", help="go on until interrupted")
        if name == "screenshot":
            parser.add_argument("file", type=Path, help="must not exist")
        parser.set_defaults(run=run)


def _add_create(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", help="an id, an unambiguous prefix of one, or a name")
    parser.add_argument("--name", required=True, help="the server's name, unique in the project")
    parser.add_argument("--host", default="", help="the compute host; by default the only one")
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--ram", type=int, default=0, metavar="MIB", help="by default what suits the image")
    parser.add_argument("--disk", type=int, default=0, metavar="GIB", help="of the first disk; by default the image's")
    parser.add_argument("--ssh-key", type=Path, metavar="FILE", help="public keys for cloud-init")
    parser.add_argument("--user-data", type=Path, metavar="FILE", help="for cloud-init; put no secret into it")
    parser.add_argument("--network", default="user", help="of libvirt; user: out through the host; none: without")
    parser.add_argument("--boot-mode", choices=("bios", "uefi"), default="", help="by default as the image says")
    parser.add_argument("--full-copy", action="store_true", help="copy the whole image first, then start")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=create)


def create(options: argparse.Namespace) -> int:
    """Create a server and start it; prints its id."""
    names = ("image", "name", "host", "cpus", "disk", "network", "boot_mode", "full_copy")
    request = {name: getattr(options, name) for name in names}
    request["ssh_key"] = options.ssh_key.read_text() if options.ssh_key else ""
    request["user_data"] = options.user_data.read_text() if options.user_data else ""
    result = run_flow("create_server", {**request, "memory": options.ram}, Settings())
    if request["ssh_key"] and options.network in ("user", "none"):
        print("ssh does not get there: a server is reached on a network of libvirt (--network NAME)", file=sys.stderr)
    _print(options, result, f"{result['name']}: {result['state']} on {result['host']}")
    return 0


def list_(options: argparse.Namespace) -> int:
    """Print a table, or JSON, of the servers by name."""
    from darkroom import servers  # noqa: PLC0415 - libvirt is for these commands alone

    with open_systems(Settings()) as systems:
        rows = servers.listed(systems)
    print_disks(rows, _COLUMNS, as_json=options.json)
    return 0


def show(options: argparse.Namespace) -> int:
    """Print all that is known of one server."""
    from darkroom import servers  # noqa: PLC0415

    with open_systems(Settings()) as systems:
        found = servers.describe(systems, options.server)
    if options.json:
        print(json.dumps(found))
        return 0
    for name, value in found.items():
        if name != "disks":
            text = " ".join(value) if isinstance(value, list) else value
            print(f"{name:<10}  {'-' if text in (None, '') else text}")
    for disk in found["disks"]:
        state = "whole" if disk["status"] == "whole" else f"{disk['status']}, {meter.size(disk['hydrated'])} copied"
        kind = f", volume {disk['volume']}" if disk["volume"] else ", CD-ROM" if disk["medium"] else ""
        sealed = ", encrypted" if disk["encrypted"] else ""
        print(f"{'disk ' + disk['target']:<10}  {meter.size(disk['size'])}, {state}{sealed}{kind}")
    return 0


def start(options: argparse.Namespace) -> int:
    """Start a server; prints its id."""
    result = run_flow("start_server", {"server": options.server}, Settings())
    _print(options, result, f"{result['name']}: {result['state']}")
    return 0


def stop(options: argparse.Namespace) -> int:
    """Stop a server; prints its id."""
    result = run_flow("stop_server", {"server": options.server, "force": options.force}, Settings())
    _print(options, result, f"{result['name']}: {result['state']}")
    return 0


def delete(options: argparse.Namespace) -> int:
    """Delete a server; prints its id."""
    result = run_flow("delete_server", {"server": options.server}, Settings())
    _print(options, {**result, "id": result["server"]}, f"{result['name']}: deleted")
    return 0


def console(options: argparse.Namespace) -> int:
    """Print the console from its beginning, without what would steer the terminal."""
    from darkroom import servers  # noqa: PLC0415

    with open_systems(Settings()) as systems:
        path = servers.console(systems, options.server)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    # Its folder is that of QEMU's account, whose links are not to be followed.
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        while True:
            data = file.read(1 << 16)
            print(printable(decoder.decode(data), kept="\n\t"), end="", flush=True)
            if not data:
                if not options.follow:
                    return 0
                time.sleep(_POLL)


def screenshot(options: argparse.Namespace) -> int:
    """Write the screen as PNG; prints the file's name."""
    from darkroom import servers  # noqa: PLC0415

    with open_systems(Settings()) as systems:
        data = servers.screenshot(systems, options.server)
    with open(options.file, "xb") as file:
        file.write(data)
    print(options.file)
    return 0


def _print(options: argparse.Namespace, result: dict[str, Any], text: str) -> None:
    if options.json:
        print(json.dumps(result))
    else:
        print(text, file=sys.stderr)
        print(result["id"])
