"""Run a flow in the process of a command."""

import os
import sys
from pathlib import Path
from typing import Any, get_type_hints

from commands import meter
from darkroom import prefect_server
from darkroom.errors import RefusedError
from darkroom.settings import Settings


class OptionError(RefusedError):
    """An option that the operation does not take."""

    code = "option"
    what = "this value is not accepted"


def run_flow(
    name: str, request: dict[str, Any], settings: Settings, shows: meter.Meter | None = None
) -> dict[str, Any]:
    """Run a flow here, its run recorded by the Prefect server of the user, or else by the embedded one.

    `shows` tells of its progress, by default in bytes.
    `request` is checked by the flow's own form; raises OptionError, and what the flow raises.
    """
    folder = settings.home / "prefect"
    if not os.environ.get("PREFECT_API_URL") and not prefect_server.status(folder)["running"] and sys.stderr.isatty():
        print("starting the embedded Prefect server; this takes some seconds", file=sys.stderr)
    os.environ.update(prefect_environment(folder))
    import importlib  # noqa: PLC0415 - Prefect takes seconds to import, and must find its settings made

    flow = getattr(importlib.import_module(f"flows.{name}"), name)
    progress = importlib.import_module("tasks.progress")
    settings_of_prefect = importlib.import_module("prefect.settings")
    # Whoever waits for this process sees it die; waiting for the heartbeat's thread would cost each command a second.
    no_heartbeat = {settings_of_prefect.PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    with shows or meter.Meter() as shown, settings_of_prefect.temporary_settings(no_heartbeat):
        progress.listen(shown.update)
        result: dict[str, Any] = flow(_checked(get_type_hints(flow.fn)["request"], request))
    return result


def prefect_environment(folder: Path) -> dict[str, str]:
    """The environment of a client of the user's Prefect server, or of the embedded one, which is started."""
    if own := os.environ.get("PREFECT_API_URL"):
        return prefect_server.client_environment(own)
    return prefect_server.client_environment(prefect_server.ensure(folder), folder)


def _checked(model: Any, request: dict[str, Any]) -> Any:
    """The parameters of a flow; a value that the form does not take is a refusal."""
    try:
        return model(**request)
    except ValueError as error:
        # pydantic's own subclass, whose import is Prefect's to pay for.
        details: dict[str, Any] = error.errors()[0] if hasattr(error, "errors") else {"loc": (), "msg": str(error)}
        raise OptionError(".".join(map(str, details["loc"])) or "request", "", details["msg"]) from None
