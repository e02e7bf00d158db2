"""An upgrade of an installation of two workers that are at work: drained first, and all at once.

    python benchmarks/upgrade.py [--images 60] [--folder build/upgrade] [drained | at-once] …

The new version is a copy of this repository with one migration of the catalog more. At the end every run that was asked
for is completed, and each image is there once.
"""

import argparse
import collections
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import sources
from benchmarks.migrate import DARKROOM, ROOT, fresh
from benchmarks.pool import Pool, wait_for
from darkroom.systems import Systems

MIB = 1 << 20
LARGE = 1 << 30


class Upgrade:
    """A pool with two workers of this version, and what is said of it, with the seconds since it began."""

    def __init__(self, to: Systems, folder: Path, images: int) -> None:
        self.to, self.began, self.runs = to, time.monotonic(), dict[str, str]()
        self.table = sources.make(folder / "sources", images, size=24 * MIB, own=16 * MIB)
        self.large, self.report = folder / "large.raw", folder / "out.csv"
        self.new, self.expected = folder / "new", images
        self.pool = Pool(to.settings.home / "prefect")
        self.pool.start_workers(2)

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.began:6.0f} s  {text}", flush=True)

    def ask(self, name: str, flow: str, /, **request: Any) -> None:
        """Ask for a run, to be known as `name`."""
        self.runs[name] = self.pool.run(flow, **request)

    def states(self) -> str:
        """The runs and their states."""
        return ", ".join(f"{name} {self.pool.state(run)['name']}" for name, run in self.runs.items())

    def command(self, *words: str, root: Path = ROOT) -> str:
        """What a command says, of this version or of that in `root`."""
        environment = {**self.pool.environment, "PYTHONPATH": str(root)}
        done = subprocess.run(words, cwd=root, env=environment, capture_output=True, text=True, check=False)
        return (done.stdout + done.stderr).strip()

    def rows(self, query: str) -> int:
        with self.to.catalog.transaction() as connection:
            return int(connection.execute(query.encode()).fetchone()["n"])

    def stop_workers(self) -> None:
        for worker in list(self.pool.workers):
            began = time.monotonic()
            self.pool.stop(worker)
            self.say(f"a worker was stopped, which took {time.monotonic() - began:.1f} s")

    def change_version(self) -> None:
        """All that is between the last worker of the old version and the first of the new one."""
        ignored = shutil.ignore_patterns(".git", ".venv", "build", "__pycache__", ".*_cache", "*.egg-info")
        shutil.rmtree(self.new, ignore_errors=True)
        shutil.copytree(ROOT, self.new, ignore=ignored)
        (self.new / "darkroom/schema/9999_upgrade.sql").write_text("COMMENT ON SCHEMA darkroom IS 'upgraded';\n")
        self.say("$ darkroom status     # of the new version\n" + self.command(DARKROOM, "status", root=self.new))
        self.say("$ darkroom list       # of the old version\n" + self.command(DARKROOM, "list"))
        self.pool.restart_server()
        self.pool.apply(self.new)
        self.say("the Prefect server was restarted, and the deployments brought up to date")
        self.pool.start_workers(2, PYTHONPATH=str(self.new))
        self.say("two workers of the new version run")

    def finish(self) -> None:
        """Wait for the end of all runs, and see that all is as it should be."""
        left = dict(self.runs)
        while left:
            time.sleep(0.2)
            for name, run in list(left.items()):
                if self.pool.state(run)["type"] in ("COMPLETED", "FAILED", "CANCELLED"):
                    self.say(f"{name}: {' '.join(state['name'] for state in self.pool.states(run))}")
                    assert self.pool.state(left.pop(name))["type"] == "COMPLETED"
        with self.to.catalog.transaction() as connection:
            found = connection.execute("SELECT name, status FROM images").fetchall()
        active = collections.Counter(row["name"] for row in found if row["status"] == "active")
        assert set(active.values()) == {1}
        assert len(active) == len(found) == self.expected
        self.say(f"{len(active)} images, each once, none unfinished")


def drained(work: Upgrade) -> None:
    """Nothing new starts, what is under way ends, then all is stopped."""
    work.ask("migration", "migrate-images", source=str(work.table), report=str(work.report), workers=2, concurrency=1)
    wait_for(lambda: work.rows("SELECT count(*) AS n FROM batch_rows WHERE status = 'done'") > 5, 600)
    wait_for(lambda: work.rows("SELECT count(DISTINCT holder) AS n FROM batch_rows WHERE status = 'running'") == 2, 600)
    work.say("a migration is under way on both workers")
    work.say("$ prefect work-pool pause darkroom\n" + work.command(sys.executable, *PREFECT, "pause", "darkroom"))
    work.ask("import", "import-image", source=str(work.table.parent / "disk-00000.raw"), name="meanwhile")
    work.expected += 1
    while "RUNNING" in (found := {work.pool.state(run)["type"] for run in work.runs.values()}):
        assert found <= {"RUNNING", "SCHEDULED"}
        time.sleep(0.5)
        lines = [line for line in work.command(DARKROOM, "metrics").splitlines() if line.startswith("darkroom_leases")]
        work.say(f"{work.states()}; {' '.join(lines)}")
    work.stop_workers()
    work.change_version()
    work.say("$ prefect work-pool resume darkroom\n" + work.command(sys.executable, *PREFECT, "resume", "darkroom"))
    work.finish()


def at_once(work: Upgrade) -> None:
    """The workers are stopped in the middle of what they do."""
    with open(work.large, "wb") as file:
        for _ in range(LARGE // MIB):
            file.write(os.urandom(MIB))
    work.ask("migration", "migrate-images", source=str(work.table), report=str(work.report), workers=1, concurrency=1)
    work.ask("import", "import-image", source=str(work.large), name="large", format="raw")
    work.expected += 1
    wait_for(lambda: work.rows("SELECT count(*) AS n FROM batch_rows WHERE status = 'done'") > 5, 600)
    wait_for(
        lambda: work.rows("SELECT count(*) AS n FROM runs JOIN images ON id = image_id AND name = 'large'") > 2, 600
    )
    work.say("a migration is under way on one worker, an import of 1 GiB on the other")
    work.stop_workers()
    work.say(work.states())
    work.change_version()
    work.say(work.states())
    work.finish()


PREFECT = ("-m", "prefect", "work-pool")
WAYS = {"drained": drained, "at-once": at_once}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="*", choices=[[], *WAYS], default=list(WAYS))
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--folder", type=Path, default=ROOT / "build/upgrade")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    folder = options.folder.absolute()
    for what in options.what:
        print(f"{what}:", flush=True)
        with fresh(folder / "home") as to:
            work = Upgrade(to, folder, options.images)
            try:
                WAYS[what](work)
            finally:
                work.pool.close()


if __name__ == "__main__":
    main()
