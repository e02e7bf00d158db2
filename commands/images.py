"""`darkroom modify`, `tag`, `untag`, `family`, `deprecate`, `deactivate` and `activate`: decisions about images."""

import argparse
import json
import sys
from typing import Any

from commands.flow import run_flow
from darkroom import batch
from darkroom.settings import Settings

IMAGE = "an id, an unambiguous prefix of one, a name, or a family"
_SWITCH = ("on", "off")


def add_commands(commands: Any) -> None:
    """Add the parsers of this module."""
    parser = _parser(
        commands, "modify", "change what is written on images, and what servers are made of them by", modify
    )
    parser.add_argument("--name")
    parser.add_argument("--description")
    parser.add_argument("--min-ram", type=int, metavar="MIB", help="0: no minimum")
    parser.add_argument("--max-ram", type=int, metavar="MIB", help="0: no maximum")
    parser.add_argument("--min-disk", type=int, metavar="GIB", help="0: the disk's own size")
    parser.add_argument("--multiqueue", choices=_SWITCH, help="several queues a network interface")
    parser.add_argument("--sriov", choices=_SWITCH, help="network interfaces by SR-IOV")
    parser.add_argument("--boot-mode", choices=("bios", "uefi", "none"))
    parser.add_argument("--protect", choices=_SWITCH, help="whether it cannot be deleted")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a property of your own")
    parser.add_argument("--unset", action="append", default=[], metavar="KEY")
    parser.add_argument("--version", type=int, default=0, help="refuse if the image has another, for `show` told this")

    parser = _parser(commands, "tag", "give tags to images", tag, several=False)
    parser.add_argument("words", nargs="+", metavar="IMAGE… KEY=VALUE…", help=f"{IMAGE} each; then tags")
    parser = _parser(commands, "untag", "take tags away from an image", untag, several=False)
    parser.add_argument("image", help=IMAGE)
    parser.add_argument("keys", nargs="+", metavar="KEY")

    parser = _parser(commands, "family", "a name that means the newest usable image that has it", family, several=False)
    parser.add_argument("image", help=IMAGE)
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("family", nargs="?", default="")
    group.add_argument("--none", action="store_true", help="take the image out of its family")

    parser = _parser(commands, "deprecate", "mark images as not to be used for anything new", deprecate)
    parser.add_argument("--replaced-by", default="", metavar="IMAGE", help="what to use instead")
    parser.add_argument("--undo", action="store_true", help="take the mark away")
    _parser(commands, "deactivate", "make images unusable until they are activated", deactivate)
    _parser(commands, "activate", "make deactivated images usable again", activate)


def _parser(commands: Any, name: str, help: str, run: Any, *, several: bool = True) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help)
    if several:
        parser.add_argument("images", nargs="+", metavar="IMAGE", help=f"{IMAGE} each")
    parser.add_argument("--json", action="store_true", help="print a JSON array, a result an image")
    parser.set_defaults(run=run)
    return parser


def modify(options: argparse.Namespace) -> int:
    """Change images; an empty or zero value takes away what there is."""
    values = ("description", "min_ram", "max_ram", "min_disk", "boot_mode")
    given = {name: getattr(options, name) for name in values if getattr(options, name) is not None}
    clear = [name for name, value in given.items() if value in ("", 0, "none")]
    request = {name: value for name, value in given.items() if name not in clear}
    switches = {name: getattr(options, name) for name in ("multiqueue", "sriov", "protect") if getattr(options, name)}
    others = {"name": options.name} if options.name is not None else {}
    request |= {**switches, **others, "clear": clear, "set": pairs(options.set), "unset": options.unset}
    return run_batch("modify_images", {"images": options.images, "version": options.version, **request}, options.json)


def tag(options: argparse.Namespace) -> int:
    """Give tags to images."""
    images = [word for word in options.words if "=" not in word]
    tags = pairs(word for word in options.words if "=" in word)
    return run_batch("tag_images", {"images": images, "tags": tags}, options.json)


def untag(options: argparse.Namespace) -> int:
    """Take tags away from an image."""
    return run_batch("tag_images", {"images": [options.image], "remove": options.keys}, options.json)


def family(options: argparse.Namespace) -> int:
    """Put an image into a family, or take it out of one."""
    change = {"clear": ["family"]} if options.none else {"family": options.family}
    return run_batch("modify_images", {"images": [options.image], **change}, options.json)


def deprecate(options: argparse.Namespace) -> int:
    """Mark images as deprecated, or take that mark away."""
    request = {"images": options.images, "replaced_by": options.replaced_by, "undo": options.undo}
    return run_batch("deprecate_images", request, options.json)


def deactivate(options: argparse.Namespace) -> int:
    """Make images unusable."""
    return run_batch("deactivate_images", {"images": options.images}, options.json)


def activate(options: argparse.Namespace) -> int:
    """Make images usable again."""
    return run_batch("activate_images", {"images": options.images}, options.json)


def run_batch(flow: str, request: dict[str, Any], as_json: bool) -> int:
    """Run a flow over images and print a result for each; the exit code is that of the first that was refused."""
    try:
        results = run_flow(flow, request, Settings())["results"]
    except batch.BatchError as error:
        results = error.results
    refused = [result for result in results if result["outcome"] == batch.REFUSED]
    if as_json:
        print(json.dumps(results))
    for result in results if not as_json else refused:
        if result in refused:
            print(f"darkroom: {result['message']}", file=sys.stderr)
        else:
            print(f"{result['name']}: {result['outcome']}, version {result['version']}", file=sys.stderr)
            print(result["image"])
    return refused[0]["exit_code"] if refused else 0


def pairs(words: Any) -> dict[str, str]:
    """KEY=VALUE words as a dict."""
    return {key: value for key, _, value in (word.partition("=") for word in words)}
