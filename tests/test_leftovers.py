"""Exports that were killed: what they left beside their target is gone with the next export to that folder."""

import signal
import subprocess
import sys

import pytest

from darkroom import leftovers
from tests import operations

KILLED = """
import os, sys
from darkroom.settings import Settings
from darkroom.store import directory
from darkroom.systems import open_systems
from tests import operations
with open_systems(Settings()) as to:
    real, calls = to.store.get, []
    def get(*arguments):
        calls.append(1)
        if len(calls) == 6:
            os.kill(os.getpid(), 9)
        return real(*arguments)
    to.store.get = get
    operations.export_image(to, sys.argv[1], sys.argv[2], sys.argv[3])
"""


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_what_a_killed_export_left_is_gone_with_the_next(to, raw_disk, tmp_path, format):
    image = operations.import_image(to, raw_disk)
    folder = tmp_path / "out"
    folder.mkdir()
    command = [sys.executable, "-c", KILLED, image, str(folder / "a"), format]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    left = list(folder.iterdir())

    operations.export_image(to, image, folder / "b", format)

    assert len(left) == 1
    assert left[0].name.startswith(".darkroom-")
    assert sorted(path.name for path in folder.iterdir()) == ["b", "b.sha256"]


def test_what_a_living_process_or_another_host_has_there_stays(tmp_path):
    ours = tmp_path / f"{leftovers.prefix()}x.part"
    parts = leftovers.prefix().split("-")
    foreign = tmp_path / "-".join([parts[0], "00000000", *parts[2:], "y"])
    other = tmp_path / ".darkroom-notes"
    dead = tmp_path / "-".join([*parts[:3], "1", "1", parts[5], "z"])
    contained = tmp_path / "-".join([*parts[:3], "1", "1", "1", "z"])
    for path in (ours, foreign, other, dead, contained):
        path.mkdir()
    leftovers.sweep(tmp_path)

    assert sorted(tmp_path.iterdir()) == sorted([ours, foreign, other, contained])
