"""`darkroom status` and `darkroom down`: the systems, and those that Darkroom runs itself."""

import argparse
import json
from collections.abc import Callable
from typing import Any

from darkroom import postgres, prefect_server, systems
from darkroom.catalog import Catalog
from darkroom.errors import DarkroomError
from darkroom.settings import Settings

_DOWN = 6


def add_commands(commands: Any) -> None:
    """Add the parsers of this module."""
    parser = commands.add_parser("status", help="where catalog, store and keys are, and whether they are well")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=status)
    parser = commands.add_parser("down", help="stop the embedded catalog and Prefect server")
    parser.set_defaults(run=down)


def status(options: argparse.Namespace) -> int:
    """Ask each system; exit code 6 if one is not well."""
    settings = Settings()
    found = {
        "catalog": _ask(lambda: _catalog(settings)),
        "store": _ask(lambda: _checked(systems.open_object_store(settings))),
        "keys": _ask(lambda: _checked(systems.open_key_manager(settings))),
    }
    if options.json:
        print(json.dumps(found))
    else:
        for name, system in found.items():
            print(f"{name:<8} {'well' if system['well'] else 'DOWN'}  {system['where']}")
        server = prefect_server.status(settings.home / "prefect")
        print(f"prefect  {'running' if server['running'] else 'not running; it starts with the first operation'}")
    return 0 if all(system["well"] for system in found.values()) else _DOWN


def down(_: argparse.Namespace) -> int:
    """Stop what Darkroom started; data stays, and the next command starts it again."""
    settings = Settings()
    prefect_server.stop(settings.home / "prefect")
    postgres.stop(settings.home / "catalog")
    return 0


def _ask(question: Callable[[], str]) -> dict[str, Any]:
    try:
        return {"well": True, "where": question()}
    except DarkroomError as error:
        return {"well": False, "where": str(error)}


def _catalog(settings: Settings) -> str:
    with Catalog(systems.catalog_dsn(settings), settings.project) as catalog, catalog.transaction() as connection:
        row = connection.execute("SELECT count(*) AS images FROM images WHERE status = 'active'").fetchone()
        return f"{catalog.where}, project {settings.project}, {row['images'] if row else 0} active images"


def _checked(system: Any) -> str:
    system.check()
    return str(system.url)
