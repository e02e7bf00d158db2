"""`darkroom key` and `rekey`: the key-encryption keys of the key manager, and which of them an image is under."""

import argparse
import json
import sys
from typing import Any

from commands.flow import run_flow
from darkroom import rules
from darkroom.settings import Settings
from darkroom.systems import open_key_manager


def add_commands(commands: Any) -> None:
    """Add the parsers of this module."""
    group = commands.add_parser("key", help="create and list keys").add_subparsers(required=True, metavar="COMMAND")
    parser = group.add_parser("create", help="create a key-encryption key")
    parser.add_argument("name")
    parser.set_defaults(run=create)
    parser = group.add_parser("list", help="list the keys")
    parser.set_defaults(run=list_)

    parser = commands.add_parser("rekey", help="put an encrypted image under another key; no data is rewritten")
    parser.add_argument("image", help="an id, an unambiguous prefix of one, or a name")
    parser.add_argument("--key", required=True, help="the new key")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=rekey)


def create(options: argparse.Namespace) -> int:
    """Create a key; prints its name."""
    rules.check_name(options.name)
    open_key_manager(Settings()).create(options.name)
    print(options.name)
    return 0


def list_(_: argparse.Namespace) -> int:
    """Print the names of the keys, one a line."""
    for name in open_key_manager(Settings()).names():
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
