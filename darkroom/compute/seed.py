"""What cloud-init in a guest is told at its first boot: a small ISO with the label that its NoCloud source looks for.

It holds what the user gave for the guest, and nothing of ours.
"""

import json
import subprocess
import tempfile
from pathlib import Path
from uuid import UUID

from darkroom.compute.overlay import OverlayError

_TIMEOUT = 60


def write(path: Path, server: UUID, host_name: str, ssh_keys: list[str], user_data: str) -> None:
    """Write the ISO, whole or not at all; raises OverlayError. `user_data` as cloud-init takes it, or empty."""
    meta: dict[str, object] = {"instance-id": str(server), "local-hostname": host_name}
    if ssh_keys:
        meta["public-keys"] = ssh_keys
    part = path.with_suffix(".part")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        # JSON is YAML too, and has no surprises in what a user writes.
        (folder / "meta-data").write_text(json.dumps(meta))
        (folder / "user-data").write_text(user_data or "#cloud-config\n{}\n")
        words = ["xorriso", "-as", "mkisofs", "-quiet", "-V", "cidata", "-J", "-r", "-o", str(part)]
        done = subprocess.run([*words, str(folder)], capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    if done.returncode:
        part.unlink(missing_ok=True)
        raise OverlayError(str(path), "", done.stderr.strip()[-500:])
    part.rename(path)
