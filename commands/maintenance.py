"""`darkroom collect` and `rebuild-catalog`: for the operator, of all projects."""

import argparse
import json
import sys
from typing import Any

from commands import meter
from commands.flow import run_flow
from darkroom.settings import Settings

_FINDINGS = 1


def add_commands(commands: Any) -> None:
    """Add the parsers of this module."""
    parser = commands.add_parser("collect", help="free what nothing refers to, in all projects; for the operator")
    parser.add_argument("--dry-run", action="store_true", help="only tell what would be freed")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=collect)
    parser = commands.add_parser("rebuild-catalog", help="bring back a lost catalog from the store and the keys")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=rebuild)


def collect(options: argparse.Namespace) -> int:
    """Collect; prints the bytes freed. Exit code 1 if a pack was found damaged."""
    result = run_flow("collect_garbage", {"dry_run": options.dry_run}, Settings())
    code = _FINDINGS if result["damaged"] else 0
    if options.json:
        print(json.dumps(result))
        return code
    for message in result["damaged"]:
        print(message, file=sys.stderr)
    for name, size in sorted(result["projects"].items()):
        print(f"{name}: {meter.size(size)}", file=sys.stderr)
    counts = (f"{result[name]} {name}" for name in ("packs", "objects", "compacted", "sidecars"))
    print(f"{'would free' if options.dry_run else 'freed'}: {', '.join(counts)}", file=sys.stderr)
    print(result["freed_size"])
    return code


def rebuild(options: argparse.Namespace) -> int:
    """Rebuild; prints the number of images that came back. Exit code 1 with findings."""
    result = run_flow("rebuild_catalog", {}, Settings())
    code = _FINDINGS if result["findings"] else 0
    if options.json:
        print(json.dumps(result))
        return code
    for message in result["findings"]:
        print(message, file=sys.stderr)
    print(
        f"came back: {', '.join(f'{result[name]} {name}' for name in ('scopes', 'packs', 'images'))}", file=sys.stderr
    )
    print(result["images"])
    return code
