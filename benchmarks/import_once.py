"""Import one file by the domain's functions, without Prefect, and print the seconds of each step as JSON.

python benchmarks/import_once.py SOURCE NAME [KEY]      in the DARKROOM_HOME of the environment
"""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from darkroom import creation, importing
from darkroom.settings import Settings
from darkroom.systems import open_systems


def main(source: str, name: str, key: str = "") -> None:
    steps: dict[str, float] = {}

    def timed(step: str, function: object, *arguments: object) -> dict:
        started = time.monotonic()
        result = function(*arguments)  # type: ignore[operator]
        steps[step] = round(time.monotonic() - started, 2)
        return result

    def quiet(done: int, total: int) -> None:
        pass

    with open_systems(Settings()) as to:
        if key and key not in [found.name for found in to.keys.listed()]:
            to.keys.create(key)
        request = importing.ImportRequest(source=source, name=name, key=key)
        image = timed("register", importing.register, to, request)["image"]
        timed("validate", importing.validate, to, image, quiet)
        timed("convert", importing.probe, to, image)
        timed("encrypt", creation.create_data_key, to, image)
        timed("upload", importing.upload_disk, to, image, quiet)
        timed("read back", creation.read_back, to, image, quiet)
        timed("activate", creation.activate, to, image)
        result = creation.describe(to, image)
    print(json.dumps({**result, "steps": steps, "memory": _peak_memory()}))


def _peak_memory() -> int:
    """Bytes. Not ru_maxrss, which a process takes over from the one that started it (getrusage(2))."""
    status = Path("/proc/self/status").read_text().split("VmHWM:")[1]
    return int(status.split()[0]) * 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
