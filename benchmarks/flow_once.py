"""Import one file by its flow in this process; prints the seconds of the flow alone, and with Prefect's import.

python benchmarks/flow_once.py SOURCE NAME KEY
"""

import importlib
import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from darkroom import prefect_server
from darkroom.settings import Settings
from darkroom.systems import open_systems

_SETTLE = 5.0
"""Seconds that a Prefect server is busy with itself after its first start."""


def main(source: str, name: str, key: str) -> None:
    settings = Settings()
    with open_systems(settings) as to:
        if key not in [found.name for found in to.keys.listed()]:
            to.keys.create(key)
    folder = settings.home / "prefect"
    os.environ.update(prefect_server.client_environment(prefect_server.ensure(folder), folder))
    time.sleep(_SETTLE)
    started = time.monotonic()
    flow = importlib.import_module("flows.import_image").import_image
    parameters = importlib.import_module("flows.parameters.transfer").ImportImage
    loaded = time.monotonic()
    prefect_settings = importlib.import_module("prefect.settings")
    with prefect_settings.temporary_settings({prefect_settings.PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        flow(parameters(source=source, name=name, key=key))
    ended = time.monotonic()
    print(json.dumps({"flow": ended - loaded, "with_import": ended - started}))


if __name__ == "__main__":
    main(*sys.argv[1:])
