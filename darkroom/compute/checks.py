"""What a machine must have to be a compute host, and what to do about what it has not."""

import os
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from darkroom.compute import connection, domain, hosts, probe
from darkroom.compute.hosts import Host
from darkroom.errors import DarkroomError
from darkroom.model import GiB

_QEMU = 7_002_000
_SPACE = 10 * GiB
_PROGRAMS = {"qemu-img": "qemu-utils", "nbdkit": "nbdkit", "xorriso": "xorriso"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `remedy` is empty where all is well."""

    what: str
    found: str
    verdict: Literal["well", "slow", "missing"] = "well"
    remedy: str = ""


def check(host: Host) -> list[Finding]:
    """Look at all that servers need on this host; never raises for what it finds."""
    found = [_program(*pair) for pair in _PROGRAMS.items()]
    try:
        host.prepare()
        with connection.open(host.uri) as libvirt:
            found += [_version(libvirt), _accelerator(libvirt, host), *_rights(libvirt, host)]
    except (DarkroomError, OSError) as error:
        remedy = (
            error.remedy if isinstance(error, DarkroomError) else "make the storage folder writable for this account"
        )
        found.append(Finding("libvirt", str(error), "missing", remedy))
    return [*found, _uefi(), _space(host)]


def is_usable(findings: list[Finding]) -> bool:
    """Whether servers can run; some may be slow."""
    return all(finding.verdict != "missing" for finding in findings)


def _program(name: str, package: str) -> Finding:
    path = shutil.which(name)
    if path is None:
        return Finding(name, "not there", "missing", f"install {package}")
    filtered = [path, "--filter=retry", "null", "--version"]
    if name == "nbdkit" and subprocess.run(filtered, capture_output=True, check=False).returncode:
        return Finding(name, "no filter `retry`", "missing", f"install all of {package}")
    return Finding(name, path)


def _version(libvirt: Any) -> Finding:
    with connection.errors("version"):
        number = libvirt.getVersion()
    text = f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
    if number < _QEMU:
        return Finding("QEMU", text, "missing", "install QEMU 7.2 or newer")
    return Finding("QEMU", text)


def _accelerator(libvirt: Any, host: Host) -> Finding:
    kind = probe.accelerator(libvirt, host.run)
    if not kind:
        return Finding("guests", "do not start", "missing", "see libvirt's log, and whether QEMU may read the storage")
    if kind == "tcg":
        remedy = (
            "guests are emulated, several times slower; for KVM give this machine /dev/kvm that a guest really runs on"
        )
        return Finding("guests", "emulated (TCG)", "slow", remedy)
    if host.accelerator != kind:
        return Finding(
            "guests", f"KVM, but added as {host.accelerator}", "slow", "add the host again: `darkroom host add`"
        )
    return Finding("guests", "KVM")


def _rights(libvirt: Any, host: Host) -> list[Finding]:
    """QEMU may run under another account than we do: sockets and files are handed to it, which takes root."""
    user, _ = domain.account(libvirt)
    if user != os.geteuid() and os.geteuid() != 0:
        remedy = "run the worker as root, or use qemu:///session"
        return [Finding("rights", f"QEMU runs as user {user}, this as {os.geteuid()}", "missing", remedy)]
    closed = [
        folder
        for folder in (host.storage, *host.storage.parents)
        if user not in (0, folder.stat().st_uid) and not folder.stat().st_mode & 0o001
    ]
    if closed:
        remedy = f"chmod o+x {closed[-1]}, or put the storage elsewhere: QEMU, as user {user}, cannot pass"
        return [Finding("rights", f"{closed[-1]} is closed to QEMU", "missing", remedy)]
    return [Finding("rights", f"QEMU runs as user {user}")]


def _uefi() -> Finding:
    if domain.OVMF_CODE.exists() and domain.OVMF_VARS.exists():
        return Finding("UEFI", str(domain.OVMF_CODE))
    return Finding("UEFI", "no firmware", "slow", "install ovmf; until then only images of boot mode bios start")


def _space(host: Host) -> Finding:
    folder: Path = next(folder for folder in (host.storage, *host.storage.parents) if folder.exists())
    free = shutil.disk_usage(folder).free
    if free < _SPACE:
        return Finding("space", f"{free / GiB:.1f} GiB free", "slow", f"make room on {folder}, or use other storage")
    return Finding("space", f"{free / GiB:.1f} GiB free")


def require(host: Host) -> list[Finding]:
    """The findings; raises HostError for what is missing first."""
    found = check(host)
    for finding in found:
        if finding.verdict == "missing":
            raise connection.HostError(f"{host.name}, {finding.what}", "", finding.found, finding.remedy)
    return found


def accelerated(host: Host) -> hosts.Host:
    """The same host, with what a probe proves now."""
    with connection.open(host.uri) as libvirt:
        kind = probe.accelerator(libvirt, host.run)
    return replace(host, accelerator=kind)
