"""Write an image to a raw file by the domain's functions: python benchmarks/export_once.py NAME TARGET."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from darkroom import qemu, reading
from darkroom.catalog import images
from darkroom.settings import Settings
from darkroom.systems import open_systems

with open_systems(Settings()) as to, reading.open_disk(to, images.find(to.catalog, sys.argv[1])) as disk:
    qemu.convert(disk, Path(sys.argv[2]), "raw", progress=lambda done, total: None)
