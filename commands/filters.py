"""The options by which `list` and `report` choose images."""

import argparse

from darkroom import lifecycle, rules
from darkroom.catalog.listing import Filter


def add_options(parser: argparse.ArgumentParser, *, whose: bool = True) -> None:
    """Add them to a command's parser; `whose` with those that tell own images from shared ones."""
    for option, name, help in (
        ("--tag", "tags", "with this tag; again: with all of them"),
        ("--any-tag", "any_tags", "with at least one of these"),
        ("--not-tag", "not_tags", "with none of these"),
    ):
        parser.add_argument(option, action="append", default=[], dest=name, metavar="KEY[=VALUE]", help=help)
    statuses = sorted(lifecycle.MOVES)
    parser.add_argument("--status", action="append", default=[], choices=statuses, help="by default all but deleted")
    parser.add_argument("--type", action="append", default=[], choices=tuple(rules.MAX_DISK))
    parser.add_argument("--os", default="", metavar="SYSTEM", help="the beginning of its name, such as Linux or Debian")
    parser.add_argument("--name", default="", metavar="PATTERN", help="with * and ? as wild cards, such as 'web*'")
    parser.add_argument("--family", default="")
    parser.set_defaults(whose="all")
    if whose:
        group = parser.add_mutually_exclusive_group()
        group.add_argument("--own", action="store_const", const="own", dest="whose", help="own images alone")
        group.add_argument("--shared", action="store_const", const="shared", dest="whose", help="those of others alone")


def filter_of(options: argparse.Namespace) -> Filter:
    """The filter that the options make."""
    tags = (options.tags, options.any_tags, options.not_tags)
    return Filter(*tags, options.status, options.type, options.os, options.name, options.family, options.whose)
