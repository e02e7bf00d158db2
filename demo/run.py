"""The main job on a real disk, step by step, by the command line alone; ends with a table of what came of it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from commands import meter
from demo import disk

ROOT = Path(__file__).parent.parent
WORK = ROOT / "build" / "demo"
DARKROOM = str(ROOT / ".venv" / "bin" / "darkroom")


def main() -> None:
    """Run the demo; exits with the code of the first command that fails."""
    os.environ.setdefault("DARKROOM_HOME", str(WORK / "home"))
    WORK.mkdir(parents=True, exist_ok=True)
    raw, vmdk = WORK / "disk.raw", WORK / "disk.vmdk"
    if not vmdk.exists():
        say("Building a small Linux disk that boots, as a VMDK")
        disk.build(raw, WORK / "packages")
        run("qemu-img", "convert", "-f", "raw", "-O", "vmdk", str(raw), str(vmdk))
    if "demo" not in run(DARKROOM, "key", "list").split():
        run(DARKROOM, "key", "create", "demo")

    rows = []
    say("Importing it, encrypted")
    rows.append(timed("import", DARKROOM, "import", str(vmdk), "--name", "web-1", "--key", "demo", "--json"))
    say("Importing it again under another name: all chunks are there")
    rows.append(timed("import again", DARKROOM, "import", str(vmdk), "--name", "web-2", "--key", "demo", "--json"))
    for format in ("qcow2", "raw"):
        out = WORK / f"out.{format}"
        for old in (out, Path(f"{out}.sha256")):
            old.unlink(missing_ok=True)
        say(f"Exporting it as {format}, and comparing with the source")
        rows.append(timed(f"export {format}", DARKROOM, "export", "web-1", str(out), "--format", format, "--json"))
        print(run("qemu-img", "compare", "-f", "vmdk", "-F", format, str(vmdk), str(out)).strip())
    say("The images")
    print(run(DARKROOM, "list").rstrip())
    table(rows)


def timed(what: str, *command: str) -> dict[str, Any]:
    """Run a command that prints JSON; its result with the time that it took."""
    started = time.monotonic()
    result: dict[str, Any] = json.loads(run(*command))
    return {"what": what, "seconds": time.monotonic() - started, **result}


def table(rows: list[dict[str, Any]]) -> None:
    """What is where, how large, how fast; and what to run next."""
    say("Result")
    names = ("virtual", "allocated", "stored", "new")
    print(f"{'':14}{''.join(f'{name:>12}' for name in names)}{'time':>10}{'rate':>14}")
    for row in rows:
        sizes = "".join(f"{meter.size(row.get(f'{name}_size')):>12}" for name in names)
        moved = row.get("allocated_size") or row.get("size") or 0
        print(f"{row['what']:14}{sizes}{row['seconds']:9.1f}s{meter.size(moved / row['seconds']):>12}/s")
    print(run(DARKROOM, "status").rstrip())
    print(
        f"""
Next:
    export DARKROOM_HOME={os.environ["DARKROOM_HOME"]} PATH={ROOT}/.venv/bin:$PATH
    darkroom show web-1
    darkroom check
    darkroom import your-disk.qcow2 --name yours --key demo
    darkroom down          # stops the embedded catalog and Prefect server"""
    )


def say(text: str) -> None:
    """A heading."""
    print(f"\n== {text}", flush=True)


def run(*command: str) -> str:
    """Run a command and show it; its standard output."""
    shown = " ".join(
        "darkroom" if word == DARKROOM else os.path.relpath(word) if "/" in word else word for word in command
    )
    print(f"$ {shown}", flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


if __name__ == "__main__":
    main()
