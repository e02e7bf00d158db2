"""Hidden files and folders in which an export is made: those of a process that was killed are removed by the next.

Their names tell the process, as a lease does. One of another host or container, of which nobody here knows whether it
runs, stays.
"""

import re
import shutil
from contextlib import suppress
from pathlib import Path

from darkroom import crypto
from darkroom.catalog import uploads

_NAME = re.compile(r"[.]darkroom-([0-9a-f]{8})-([0-9a-f]{8})-([0-9]+)-([0-9]+)-([0-9]+)-.*")


def prefix() -> str:
    """What the names of this process's hidden files and folders begin with."""
    host, boot, *process = uploads.holder().split(" ")
    return f".darkroom-{_short(host)}-{_short(boot)}-{'-'.join(process)}-"


def sweep(folder: Path) -> None:
    """Remove what dead processes of this host left in a folder; what cannot be removed stays."""
    host, boot, *_ = uploads.holder().split(" ")
    for path in folder.glob(".darkroom-*"):
        match = _NAME.fullmatch(path.name)
        if match and match[1] == _short(host):
            same = boot if match[2] == _short(boot) else "another"
            if uploads.is_dead(f"{host} {same} {match[3]} {match[4]} {match[5]}"):
                shutil.rmtree(path, ignore_errors=True)
                with suppress(OSError):
                    path.unlink()


def _short(text: str) -> str:
    return crypto.digest(text.encode()).hex()[:8]
