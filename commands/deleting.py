"""`darkroom delete`, `restore`, `purge` and `cancel`: each runs its flow in this process."""

import argparse
import json
import sys
from typing import Any

from commands.flow import run_flow
from darkroom.settings import Settings

_EACH = "each an id, an unambiguous prefix of one, or a name"


def add_commands(commands: Any) -> None:
    """Add the parsers of this module."""
    parser = commands.add_parser("delete", help="delete images; they can be restored within the project's window")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help=_EACH)
    parser.set_defaults(run=delete)
    parser = commands.add_parser("restore", help="bring a deleted image back as it was")
    parser.add_argument("image", help="an id, an unambiguous prefix of one, or the name it had")
    parser.add_argument("--name", default="", help="a new name, where another image has taken its own")
    parser.set_defaults(run=restore)
    parser = commands.add_parser("purge", help="remove deleted images for good; by default those whose window ended")
    parser.add_argument("images", nargs="*", metavar="IMAGE", help=_EACH)
    parser.add_argument("--all-projects", action="store_true", help="those of all projects; for the operator")
    parser.set_defaults(run=purge)
    parser = commands.add_parser("cancel", help="end the creation of an image and remove what there is of it")
    parser.add_argument("image", help="an id, an unambiguous prefix of one, or a name")
    parser.set_defaults(run=cancel)
    for name in ("delete", "restore", "purge", "cancel"):
        commands.choices[name].add_argument("--json", action="store_true", help="print one JSON value")


def delete(options: argparse.Namespace) -> int:
    """Delete images; prints the ids of those that are."""
    return _print(run_flow("delete_images", {"images": options.images}, Settings())["images"], options)


def restore(options: argparse.Namespace) -> int:
    """Bring an image back; prints its id."""
    return _print([run_flow("restore_image", {"image": options.image, "name": options.name}, Settings())], options)


def purge(options: argparse.Namespace) -> int:
    """Remove images for good; prints the ids of those that are."""
    request = {"images": options.images, "all_projects": options.all_projects}
    return _print(run_flow("purge_images", request, Settings())["images"], options)


def cancel(options: argparse.Namespace) -> int:
    """End the creation of an image; prints its id."""
    return _print([run_flow("cancel_image", {"image": options.image}, Settings())], options)


def _print(results: list[dict[str, Any]], options: argparse.Namespace) -> int:
    """A line for each image; exit code 1 where one of several was refused."""
    refused = [result for result in results if "message" in result]
    if options.json:
        print(json.dumps(results if "images" in options else results[0]))
        return 1 if refused else 0
    for result in results:
        print(result.get("message") or f"{result['name']}: {_said(result)}", file=sys.stderr)
        if "message" not in result and result["outcome"] != "held":
            print(result["image"])
    return 1 if refused else 0


def _said(result: dict[str, Any]) -> str:
    if result["outcome"] == "held":
        return "kept, since a server still reads from it; a later purge takes it"
    if "purge_after" in result:
        return f"deleted; it can be restored until {result['purge_after'][:16].replace('T', ' ')}"
    return str(result["outcome"])
