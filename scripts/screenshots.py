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
from demo import disk  # noqa: E402
from tests import browser, hosts  # noqa: E402

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
    """An import and a migration, page by page; a form that offers names; the pictures of a report and of a boot."""
    table = sources.make(work / "more", 12, broken_every=6)
    ui.page.goto(f"{ui.url}/deployments")
    ui.page.get_by_text("Activate images", exact=True).wait_for()
    save(ui, folder / "deployments.png")
    ui.open_form("import-image")
    ui.field("Source").fill("/disks/web.vmdk")
    ui.field("Name").fill("web-1")
    ui.choose("Encrypt under key")
    save(ui, folder / "import-form.png")
    ui.page.keyboard.press("Escape")
    with slow_disk(work) as source:
        ui.field("Source").fill(source)
        ui.submit()
        ui.page.set_viewport_size({"width": 1200, "height": 1400})  # with the log that grows
        ui.progress("upload")
        ui.page.get_by_text("upload: ").last.scroll_into_view_if_needed()
        save(ui, folder / "progress.png")
        ui.wait_for_state("Completed")
    ui.page.reload()
    ui.wait_for_state("Completed")
    save(ui, folder / "import-run.png")
    ui.page.set_viewport_size({"width": 1200, "height": 900})
    ui.open_artifact("import")
    save(ui, folder / "import-page.png")
    ui.open_form("migrate-images")
    ui.field("Table").fill(str(table))
    ui.field("Report").fill(str(work / "report.csv"))
    ui.submit()
    ui.wait_for_state("Completed")
    ui.open_artifact("migrate")
    save(ui, folder / "migrate-page.png")
    ui.open_form("report-images")
    ui.submit()
    ui.wait_for_state("Completed")
    ui.open_artifact("usage-picture", "img[src^='data:']")
    save(ui, folder / "report-picture.png")
    with hosts.libvirtd(work / "libvirt", ROOT / "build" / "libvirt") as uri:
        subprocess.run([DARKROOM, "host", "add", "kvm1", "--uri", uri], check=True)
        ui.open_form("prove-boot")
        ui.write("Image", "demo")
        ui.submit()
        ui.wait_for_state("Completed")
        ui.open_artifact("boot", "img[src^='data:']")
        save(ui, folder / "boot-proof.png")
        subprocess.run([DARKROOM, "host", "remove", "kvm1"], check=True)


@contextmanager
def slow_disk(work: Path) -> Iterator[str]:
    """The address of a disk that takes half a minute to read."""
    socket = work / "slow.sock"
    command = ["nbdkit", "--foreground", "--unix", socket, "--filter=rate", "pattern", "64M", "rate=20M"]
    with subprocess.Popen(command) as server:
        yield f"nbd+unix:///?socket={socket}"
        server.terminate()


def fill(work: Path) -> None:
    """Make what forms can offer: keys, a project, images, of which one boots."""
    sources.make(work / "disks", 2)
    on_screen = "cat /mnt/motd >/dev/tty0; echo 'demo login:' >/dev/tty0"
    disk.build(work / "demo.raw", ROOT / "build" / "packages", on_screen)
    names = (("key", "create", "gold"), ("key", "create", "silver"), ("project", "create", "acme"))
    files = {"demo": "demo.raw", "debian-12": "disks/disk-00000.raw", "db-1": "disks/disk-00001.qcow2"}
    for words in (*names, *(("import", work / file, "--name", name) for name, file in files.items())):
        subprocess.run([DARKROOM, *words], check=True, stdout=subprocess.DEVNULL)


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
