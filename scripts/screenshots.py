"""The pictures of the documentation, taken from Prefect's UI as `darkroom up` shows it; writes docs/images/*.png.

    .venv/bin/python scripts/screenshots.py [--forms FOLDER]

With --forms it takes a picture of every form instead, to be looked at.
"""

import argparse
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import sources  # noqa: E402 - after the path
from tests import browser  # noqa: E402

DARKROOM = ROOT / ".venv/bin/darkroom"
COLOURS = 64


@contextmanager
def service(home: Path) -> Iterator[tuple[str, str]]:
    """`darkroom up` in this home; the address of its UI, and its password."""
    os.environ["DARKROOM_HOME"] = str(home)
    process = subprocess.Popen([DARKROOM, "up"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        said = [line for line in iter(process.stdout.readline, "ready; ctrl-C stops it\n") if line]
        ui = next(line.split()[1] for line in said if line.startswith("UI"))
        yield ui, (home / "prefect" / "password").read_text().strip()
    finally:
        process.terminate()
        process.wait(60)
        subprocess.run([DARKROOM, "down"], check=True)


def save(ui: browser.Browser, file: Path) -> None:
    """A picture of the page as a person sees it, with few colours, to be small."""
    ui.page.wait_for_timeout(1500)  # what moves has come to rest
    file.parent.mkdir(parents=True, exist_ok=True)
    shot = Image.open(io.BytesIO(ui.page.screenshot())).convert("RGB").quantize(COLOURS)
    shot.save(file, optimize=True)
    print(file)


def documentation(ui: browser.Browser, folder: Path, work: Path) -> None:
    """An import and a migration, page by page."""
    table = sources.make(work / "disks", 12, broken_every=6)
    ui.page.goto(f"{ui.url}/deployments")
    ui.page.get_by_text("import-image", exact=True).wait_for()
    save(ui, folder / "deployments.png")
    ui.open_form("import-image")
    ui.field("Source").fill(str(work / "disks" / "disk-00002.vmdk"))
    ui.field("Name").fill("web-1")
    save(ui, folder / "import-form.png")
    ui.submit()
    ui.wait_for_state("Completed")
    save(ui, folder / "import-run.png")
    ui.open_artifact("import")
    save(ui, folder / "import-page.png")
    ui.open_form("migrate-images")
    ui.field("Table").fill(str(table))
    ui.field("Report").fill(str(work / "report.csv"))
    ui.submit()
    ui.wait_for_state("Completed")
    ui.open_artifact("migrate")
    save(ui, folder / "migrate-page.png")


def fill(work: Path) -> None:
    """Make what forms can offer: keys, images, a project."""
    table = sources.make(work / "disks", 4)
    for words in (("key", "create", "gold"), ("key", "create", "silver"), ("project", "create", "acme")):
        subprocess.run([DARKROOM, *words], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([DARKROOM, "migrate", table], check=True, stdout=subprocess.DEVNULL)


def forms(ui: browser.Browser, folder: Path) -> None:
    """Every form, whole."""
    for flow in sorted(
        path.stem.replace("_", "-") for path in (ROOT / "flows").glob("*.py") if path.stem != "__init__"
    ):
        ui.open_form(flow)
        ui.page.set_viewport_size({"width": 1000, "height": 2400})
        save(ui, folder / f"{flow}.png")


def main() -> None:
    """Take them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--forms", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dk-") as made:
        work = Path(made)
        os.environ["DARKROOM_HOME"] = str(work / "home")
        fill(work)
        with service(work / "home") as (url, password), browser.opened(url, password) as ui:
            if options.forms:
                forms(ui, options.forms)
            else:
                documentation(ui, ROOT / "docs" / "images", work)


if __name__ == "__main__":
    main()
