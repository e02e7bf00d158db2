"""`darkroom key`: the key-encryption keys of the key manager."""

import argparse
from typing import Any

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
