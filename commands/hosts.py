"""`darkroom host`: compute hosts. For the operator, on the host itself."""

import argparse
import json
import socket
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from darkroom import rules, systems
from darkroom.compute.hosts import Host
from darkroom.model import GiB
from darkroom.settings import Settings

_FINDINGS = 1


def add_commands(commands: Any) -> None:
    """Add the parsers of this module."""
    group = commands.add_parser("host", help="compute hosts: add, list, check, remove").add_subparsers(
        required=True, metavar="COMMAND"
    )
    parser = group.add_parser("add", help="make this machine a compute host, or change how it is one")
    parser.add_argument("name")
    parser.add_argument("--uri", default="qemu:///system", help="of libvirt on this machine")
    parser.add_argument("--storage", default="", help="a folder for disks and caches; by default below DARKROOM_HOME")
    parser.add_argument("--cache", type=int, default=20, metavar="GIB", help="what the chunk cache may take")
    parser.add_argument(
        "--open-to",
        action="append",
        default=[],
        metavar="PROJECT",
        help="may capture domains that Darkroom did not make; may be repeated; default: no project",
    )
    parser.set_defaults(run=add)
    parser = group.add_parser("list", help="list the compute hosts")
    parser.add_argument("--json", action="store_true", help="print one JSON array")
    parser.set_defaults(run=list_)
    parser = group.add_parser("check", help="what servers need on this host, and what to do about what is missing")
    parser.add_argument("name", nargs="?", default="", help="by default the only one")
    parser.add_argument("--json", action="store_true", help="print one JSON array")
    parser.set_defaults(run=check)
    parser = group.add_parser("remove", help="forget a compute host without servers and volumes")
    parser.add_argument("name")
    parser.set_defaults(run=remove)


def add(options: argparse.Namespace) -> int:
    """Prove that guests run, then record the host; prints its name. What is slow or missing goes to stderr."""
    from darkroom.compute import checks, hosts  # noqa: PLC0415 - libvirt is for these commands alone

    rules.check_name(options.name)
    settings = Settings()
    storage = Path(options.storage or settings.home / "hosts" / options.name).absolute()
    host = Host(options.name, options.uri, storage, "tcg", options.cache * GiB, tuple(options.open_to))
    hosts.check_storage(host)
    host.prepare()
    host = checks.accelerated(host)
    for finding in checks.require(host):
        if finding.remedy:
            print(f"{finding.what}: {finding.found}; {finding.remedy}", file=sys.stderr)
    with systems.operator_catalog(Settings()) as operator:
        hosts.add(operator, host)
    print(host.name)
    return 0


def list_(options: argparse.Namespace) -> int:
    """Print the hosts, one a line."""
    from darkroom.compute import hosts  # noqa: PLC0415

    with systems.operator_catalog(Settings()) as operator:
        found = hosts.listed(operator)
    if options.json:
        print(json.dumps([{**asdict(host), "storage": str(host.storage)} for host in found]))
        return 0
    for host in found:
        open_to = f"  open to {', '.join(host.open_to)}" if host.open_to else ""
        print(f"{host.name}  {host.accelerator}  {host.uri}  {host.storage}{open_to}")
    return 0


def check(options: argparse.Namespace) -> int:
    """Print what was found of this host; exit code 1 if something is missing."""
    from darkroom.compute import checks, hosts  # noqa: PLC0415

    with systems.operator_catalog(Settings()) as operator:
        host = hosts.find(operator, options.name)
    findings = checks.check(host)
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        print(f"{host.name} as seen from {socket.gethostname()}", file=sys.stderr)
        for finding in findings:
            remedy = f"; {finding.remedy}" if finding.remedy else ""
            print(f"{finding.what:<10} {finding.verdict:<8} {finding.found}{remedy}")
    return 0 if checks.is_usable(findings) else _FINDINGS


def remove(options: argparse.Namespace) -> int:
    """Forget a host; its storage is left to whoever made it."""
    from darkroom.compute import hosts, keeping  # noqa: PLC0415

    with systems.operator_catalog(Settings()) as operator:
        host = hosts.remove(operator, options.name)
    keeping.stop(host)
    print(host.name)
    return 0
