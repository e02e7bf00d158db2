"""Darkroom against its peers, on the same input in the same run; prints a table of ratios.

    python benchmarks/run.py [--rounds 3] [--folder build/bench]

Peers that are not installed are left out, and the table says so. The disks are built once by `disks.py`.
"""

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import disks

ROOT = Path(__file__).parent.parent
PYTHON = sys.executable
TIB = 1 << 40


class Bench:
    """Runs commands in a scratch folder, which is emptied between them."""

    def __init__(self, folder: Path, rounds: int) -> None:
        self.disks, self.scratch, self.rounds = folder, folder / "scratch", rounds

    def fresh(self) -> None:
        self.stop()
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir(parents=True)

    def stop(self) -> None:
        subprocess.run([str(ROOT / ".venv/bin/darkroom"), "down"], env=self.environment, check=False)

    @property
    def environment(self) -> dict[str, str]:
        secrets = {"RESTIC_PASSWORD": "x", "BORG_PASSPHRASE": "x", "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}
        return {
            **os.environ,
            **secrets,
            "DARKROOM_HOME": str(self.scratch / "home"),
            "BORG_BASE_DIR": str(self.scratch),
        }

    def run(self, command: str) -> str:
        """Run a shell command in the scratch folder; its output. Exits if it fails."""
        done = subprocess.run(
            ["bash", "-ec", command],
            cwd=self.scratch,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"{command}: {done.stderr}")
        return done.stdout

    def import_(self, source: Path, name: str) -> dict[str, Any]:
        command = f"{PYTHON} {ROOT}/benchmarks/import_once.py {shlex.quote(str(source))} {name} bench"
        return json.loads(self.run(command).splitlines()[-1])


def measure(bench: Bench) -> dict[str, Any]:
    """All figures, each the median of its rounds; what is compared runs in turn."""
    d = bench.disks
    found: dict[str, list[float]] = {}
    details: dict[str, Any] = {}

    def note(name: str, seconds: float) -> None:
        found.setdefault(name, []).append(seconds)
        print(f"  {name:28} {seconds:8.2f} s", flush=True)

    def peer(name: str, tool: str, command: str, before: str = "", rounds: int = 1) -> None:
        if shutil.which(tool) is None:
            return
        for _ in range(rounds):
            bench.fresh()
            if before:
                bench.run(before)
            started = time.monotonic()
            bench.run(command)
            note(name, time.monotonic() - started)

    for _ in range(bench.rounds):
        bench.fresh()
        first = bench.import_(d / "v1.vmdk", "v1")
        note("import", sum(first["steps"].values()))
        again = bench.import_(d / "v1.vmdk", "again")
        note("import again", sum(again["steps"].values()))
        following = bench.import_(d / "v2.vmdk", "v2")
        note("next version", sum(following["steps"].values()))
        started = time.monotonic()
        bench.run(f"{PYTHON} {ROOT}/benchmarks/export_once.py v1 out.raw")
        note("export raw", time.monotonic() - started)
        details = {"first": first, "again": again, "next": following}
        bench.fresh()
        flow = bench.run(f"{PYTHON} {ROOT}/benchmarks/flow_once.py {d}/v1.vmdk flow bench")
        note("import by the flow", json.loads(flow.splitlines()[-1])["flow"])
        peer(
            "qemu zstd",
            "qemu-img",
            f"qemu-img convert -f vmdk -O qcow2 -c -o compression_type=zstd -m 16 -W {d}/v1.vmdk o.qcow2",
        )
        started = time.monotonic()
        bench.run("qemu-img convert -f qcow2 -O raw -m 16 -W o.qcow2 o.raw")
        note("qemu qcow2 to raw", time.monotonic() - started)
        script = (
            f"qemu-img convert -f vmdk -O qcow2 -c -o compression_type=zstd -m 16 -W {d}/v1.vmdk o.qcow2;"
            "sha256sum o.qcow2 > o.sha256; head -c 32 /dev/urandom | base64 > key;"
            "openssl enc -aes-256-ctr -pbkdf2 -pass file:key -in o.qcow2 -out o.enc; cp o.enc copy; sync copy"
        )
        peer("script", "openssl", script)
    raw = d / "v1.raw"
    peer("qemu plain", "qemu-img", f"qemu-img convert -f vmdk -O qcow2 {d}/v1.vmdk o.qcow2")
    peer("qemu zlib", "qemu-img", f"qemu-img convert -f vmdk -O qcow2 -c -m 16 -W {d}/v1.vmdk o.qcow2")
    peer("restic", "restic", f"restic -q -r r backup {raw}", "restic -q -r r init")
    peer("borg", "borg", f"borg create -C zstd,1 r::a {raw}", "borg init -e repokey-blake2 r")
    peer(
        "borg fixed",
        "borg",
        f"borg create -C zstd,1 --chunker-params fixed,1048576 r::a {raw}",
        "borg init -e repokey-blake2 r",
    )
    for name, size in (("sparse 1 GiB", 1 << 30), ("sparse 1 TiB", TIB)):
        bench.fresh()
        path = bench.scratch / "sparse.raw"
        with open(path, "wb") as file:
            file.truncate(size)
            for at in range(0, size, size // 64):
                file.seek(at)
                file.write(os.urandom(1 << 20))
        details[name] = bench.import_(path, "sparse")
        note(name, sum(details[name]["steps"].values()))
    bench.fresh()
    return {"seconds": {name: statistics.median(values) for name, values in found.items()}, **details}


def table(results: dict[str, Any]) -> str:
    """The ratios as Markdown."""
    s = results["seconds"]
    first, following = results["first"], results["next"]
    memory = results["sparse 1 TiB"]["memory"] / results["sparse 1 GiB"]["memory"]
    rows = [
        ("import a VMDK, encrypted", "qemu-img convert, zstd, -m 16 -W", s["import"], s.get("qemu zstd"), 0.75),
        ("", "qemu-img convert, uncompressed", s["import"], s.get("qemu plain"), None),
        ("", "qemu-img convert, zlib, -m 16 -W", s["import"], s.get("qemu zlib"), None),
        ("", "script: convert, sha256sum, openssl, cp", s["import"], s.get("script"), 0.5),
        ("", "restic backup of the raw disk", s["import"], s.get("restic"), 0.35),
        ("", "borg, zstd,1", s["import"], s.get("borg"), 0.35),
        ("", "borg, zstd,1, fixed 1 MiB chunks", s["import"], s.get("borg fixed"), 0.35),
        ("import the same again", "the first import", s["import again"], s["import"], 0.35),
        ("export to raw", "qemu-img convert of the zstd qcow2", s["export raw"], s.get("qemu qcow2 to raw"), 1.0),
        ("import by the flow", "the domain's functions", s["import by the flow"], s["import"], 1.05),
    ]
    lines = ["| what | against | Darkroom | peer | ratio | to reach |", "|---|---|---|---|---|---|"]
    for what, against, ours, theirs, goal in rows:
        other, ratio = (f"{theirs:.1f} s", f"**{ours / theirs:.2f}**") if theirs else ("not installed", "-")
        lines.append(f"| {what} | {against} | {ours:.1f} s | {other} | {ratio} | {f'≤ {goal}' if goal else '-'} |")
    share = following["new_size"] / first["stored_size"]
    sizes = f"{following['new_size'] >> 20} MiB | {first['stored_size'] >> 20} MiB"
    lines.append(f"| new bytes of the next version | bytes of the first | {sizes} | **{share:.3f}** | ≤ 0.08 |")
    peaks = [f"{results[name]['memory'] >> 20} MiB" for name in ("sparse 1 TiB", "sparse 1 GiB")]
    lines.append(f"| peak memory, 1 TiB sparse | 1 GiB sparse | {peaks[0]} | {peaks[1]} | **{memory:.2f}** | ≤ 1.1 |")
    steps = ", ".join(f"{name} {seconds} s" for name, seconds in first["steps"].items())
    peak = first["memory"] >> 20
    return "\n".join([*lines, "", f"The import by step: {steps}. Its peak memory: {peak} MiB."])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "bench")
    options = parser.parse_args()
    disks.build(options.folder)
    print(table(measure(Bench(options.folder.absolute(), options.rounds))))


if __name__ == "__main__":
    main()
