"""Domains: what a guest is to libvirt. One is described by a `Domain`, found again by its uuid, and leaves no trace.

Every disk states its format, so that neither libvirt nor QEMU looks into it. Functions take a connection of
`connection.open` and the uuid; they raise DomainMissingError, DomainStateError, DomainBusyError, HostUnavailableError
and HostError.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import UUID
from xml.etree import ElementTree

import libvirt

from darkroom.compute import connection
from darkroom.compute.connection import DomainMissingError, DomainStateError

OVMF_CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
OVMF_VARS = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
USER_NETWORK = "user"
_SCREENSHOT_LIMIT = 32 << 20
_SPARE_PORTS = 8
"""Disks that can be attached while a guest of the PCI Express kind runs."""
_POLL = 0.05
_LET_GO = 15.0
"""Seconds that a guest may take to let go of a disk."""

State = Literal["running", "paused", "stopped", "crashed"]


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk of a domain: a file or block device of a stated format; `target` is its name in the guest, such as vda."""

    path: Path
    format: Literal["raw", "qcow2"]
    target: str = "vda"
    readonly: bool = False
    cdrom: bool = False
    secret: UUID | None = None
    """The libvirt secret that opens the LUKS layer of a qcow2."""


@dataclass(frozen=True, slots=True)
class Domain:
    """A guest to be. `memory` in MiB. `network`: "" none, "user" QEMU's own, else the name of a libvirt network."""

    uuid: UUID
    name: str
    disks: tuple[Disk, ...]
    accelerator: Literal["kvm", "tcg"]
    cpus: int = 1
    memory: int = 512
    uefi: Path | None = None
    """Where the variables of UEFI are kept; None: BIOS."""
    network: str = ""
    queues: int = 1
    console: Path | None = None
    """The file that takes what the guest writes to its first serial port."""
    terminal: Path | None = None
    """A socket on which somebody takes what the guest writes there, in place of a console."""
    screen: Path | None = None
    """A socket on which VNC shows the screen and takes what is typed."""
    transient: bool = False
    """Gone when it stops."""


def xml(domain: Domain) -> str:
    """The domain in libvirt's words."""
    root = ElementTree.Element("domain", type="kvm" if domain.accelerator == "kvm" else "qemu")
    _leaf(root, "name", domain.name)
    _leaf(root, "uuid", str(domain.uuid))
    _leaf(root, "memory", str(domain.memory), unit="MiB")
    _leaf(root, "vcpu", str(domain.cpus))
    system = _leaf(root, "os")
    _leaf(system, "type", "hvm", arch="x86_64", machine="q35" if domain.uefi else "pc")
    if domain.uefi:
        _leaf(system, "loader", str(OVMF_CODE), readonly="yes", type="pflash")
        _leaf(system, "nvram", str(domain.uefi), template=str(OVMF_VARS))
    features = _leaf(root, "features")
    _leaf(features, "acpi")
    _leaf(features, "apic")
    if domain.accelerator == "kvm":
        _leaf(root, "cpu", mode="host-passthrough")
    else:
        _leaf(_leaf(root, "cpu", mode="custom", match="exact"), "model", "qemu64", fallback="allow")
    _leaf(root, "on_poweroff", "destroy")
    _leaf(root, "on_reboot", "restart")
    _leaf(root, "on_crash", "destroy")
    devices = _leaf(root, "devices")
    if domain.uefi:
        _leaf(devices, "controller", type="pci", index="0", model="pcie-root")
        for _ in range(_SPARE_PORTS):
            _leaf(devices, "controller", type="pci", model="pcie-root-port")
    for index, disk in enumerate(domain.disks):
        devices.append(_disk(disk, "sata" if domain.uefi else "ide", index + 1))
    _add_network(devices, domain)
    _add_console(devices, domain)
    return ElementTree.tostring(root, encoding="unicode")


def _disk(disk: Disk, cdrom_bus: str = "ide", boot: int = 0) -> ElementTree.Element:
    """A disk in libvirt's words; QEMU stops the guest, and does not tell it, when the disk cannot be reached."""
    element = ElementTree.Element("disk", type="file", device="cdrom" if disk.cdrom else "disk")
    driver = _leaf(element, "driver", name="qemu", type=disk.format)
    if not disk.cdrom:
        driver.attrib.update(error_policy="stop", rerror_policy="stop")
    if not (disk.readonly or disk.cdrom):
        driver.attrib.update(discard="unmap", detect_zeroes="unmap")
    source = _leaf(element, "source", file=str(disk.path))
    if disk.secret:
        _leaf(_leaf(source, "encryption", format="luks"), "secret", type="passphrase", uuid=str(disk.secret))
    _leaf(element, "target", dev=disk.target, bus=cdrom_bus if disk.cdrom else "virtio")
    if disk.readonly or disk.cdrom:
        _leaf(element, "readonly")
    if boot:
        _leaf(element, "boot", order=str(boot))
    return element


def _add_network(devices: ElementTree.Element, domain: Domain) -> None:
    if not domain.network:
        return
    own = domain.network == USER_NETWORK
    interface = _leaf(devices, "interface", type="user" if own else "network")
    if not own:
        _leaf(interface, "source", network=domain.network)
    _leaf(interface, "model", type="virtio")
    if domain.queues > 1 and not own:
        _leaf(interface, "driver", name="vhost", queues=str(domain.queues))


def _add_console(devices: ElementTree.Element, domain: Domain) -> None:
    """Serial port, guest agent, screen, and a source of randomness."""
    serial = _leaf(devices, "serial", type="unix" if domain.terminal else "pty")
    if domain.terminal:
        _leaf(serial, "source", mode="connect", path=str(domain.terminal))
    if domain.console:
        _leaf(serial, "log", file=str(domain.console), append="on")
    _leaf(_leaf(devices, "channel", type="unix"), "target", type="virtio", name="org.qemu.guest_agent.0")
    _leaf(_leaf(devices, "video"), "model", type="vga")
    if domain.screen:
        _leaf(_leaf(devices, "graphics", type="vnc"), "listen", type="socket", socket=str(domain.screen))
    _leaf(_leaf(devices, "rng", model="virtio"), "backend", model="random").text = "/dev/urandom"
    _leaf(devices, "memballoon", model="virtio")


def _leaf(parent: ElementTree.Element, tag: str, text: str | None = None, **attributes: str) -> ElementTree.Element:
    element = ElementTree.SubElement(parent, tag, attributes)
    element.text = text
    return element


def start(host: Any, domain: Domain) -> None:
    """Define and start a domain; one that is defined already is defined anew, one that runs is left to run."""
    with connection.errors(domain.name):
        if domain.transient:
            host.createXML(xml(domain))
            return
        found = host.defineXML(xml(domain))
        if not found.isActive():
            found.create()


def resume(host: Any, uuid: UUID) -> None:
    """Start a domain that is defined and stopped, or let one that is paused go on; one that runs is left to run."""
    found = lookup(host, uuid)
    with connection.errors(found.name()):
        if not found.isActive():
            found.create()
        elif found.state()[0] == libvirt.VIR_DOMAIN_PAUSED:
            found.resume()


def stop(host: Any, uuid: UUID, *, grace: float = 0) -> None:
    """Stop a domain: ask the guest and wait `grace` seconds, then pull the plug. One that does not run is stopped."""
    try:
        found = lookup(host, uuid)
        with connection.errors(found.name()):
            if grace and found.isActive():
                found.shutdown()
                wait(lambda: not found.isActive(), grace)
            if found.isActive():
                found.destroy()
    except (DomainMissingError, DomainStateError):
        pass  # it ended meanwhile


def remove(host: Any, uuid: UUID) -> None:
    """Stop a domain at once and forget it, with its checkpoints and UEFI variables; one that is not there is gone."""
    stop(host, uuid)
    flags = (
        libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
        | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
        | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    )
    try:
        found = lookup(host, uuid)
        with connection.errors(found.name()):
            found.undefineFlags(flags)
    except DomainMissingError:
        pass


def lookup(host: Any, uuid: UUID) -> Any:
    """The domain as libvirt gives it."""
    with connection.errors(str(uuid)):
        return host.lookupByUUIDString(str(uuid))


def find(host: Any, reference: str) -> UUID:
    """The domain of this name or uuid; raises DomainMissingError."""
    with connection.errors(reference):
        try:
            found = host.lookupByUUIDString(reference)
        except libvirt.libvirtError:
            found = host.lookupByName(reference)
        return UUID(found.UUIDString())


def ended_well(host: Any, uuid: UUID) -> bool:
    """Whether a domain that does not run was shut down from within, rather than stopped or crashed."""
    found = lookup(host, uuid)
    with connection.errors(found.name()):
        code, reason = found.state()
    return bool(code == libvirt.VIR_DOMAIN_SHUTOFF and reason == libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN)


def state(host: Any, uuid: UUID) -> tuple[State, str]:
    """Whether it runs, and why it does not: "" or, of a paused one, "io-error" where a disk could not be reached."""
    found = lookup(host, uuid)
    with connection.errors(found.name()):
        code, reason = found.state()
    if code == libvirt.VIR_DOMAIN_PAUSED:
        return "paused", "io-error" if reason == libvirt.VIR_DOMAIN_PAUSED_IOERROR else ""
    if code == libvirt.VIR_DOMAIN_CRASHED:
        return "crashed", ""
    running = code in {libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED}
    return "running" if running else "stopped", ""


def exists(host: Any, uuid: UUID) -> bool:
    """Whether libvirt knows the domain, running or not."""
    try:
        lookup(host, uuid)
        return True
    except DomainMissingError:
        return False


def is_running(host: Any, uuid: UUID) -> bool:
    """Whether it runs now; one that is not there does not."""
    try:
        return state(host, uuid)[0] == "running"
    except DomainMissingError:
        return False


def has_disk(host: Any, uuid: UUID, target: str) -> bool:
    """Whether a domain has a disk of this name."""
    found = lookup(host, uuid)
    with connection.errors(found.name()):
        root = ElementTree.fromstring(found.XMLDesc())  # noqa: S314 - libvirt's own words
    return any(element.get("dev") == target for element in root.iterfind("./devices/disk/target"))


def attach(host: Any, uuid: UUID, disk: Disk) -> None:
    """Give a domain one more disk, now if it runs, and whenever it is started."""
    found = lookup(host, uuid)
    with connection.errors(found.name()):
        text = ElementTree.tostring(_disk(disk), encoding="unicode")
        found.attachDeviceFlags(text, _affect(found))


def detach(host: Any, uuid: UUID, target: str) -> None:
    """Take a disk away; raises DomainBusyError where the guest does not let go of it."""
    found = lookup(host, uuid)
    with connection.errors(found.name()):
        if found.isActive() and found.blockJobInfo(target, 0):
            found.blockJobAbort(target, 0)
        root = ElementTree.fromstring(found.XMLDesc())  # noqa: S314 - libvirt's own words
        wanted = [disk for disk in root.iterfind("./devices/disk") if disk.find(f"target[@dev='{target}']") is not None]
        for disk in wanted:
            found.detachDeviceFlags(ElementTree.tostring(disk, encoding="unicode"), _affect(found))
    if not wait(lambda: not has_disk(host, uuid, target), _LET_GO):
        raise connection.DomainBusyError(found.name(), f"disk {target} released", "the guest still uses it")


def _affect(domain: Any) -> int:
    live = libvirt.VIR_DOMAIN_AFFECT_LIVE if domain.isActive() else 0
    return int(live | libvirt.VIR_DOMAIN_AFFECT_CONFIG)


def hydrate(host: Any, uuid: UUID, target: str) -> None:
    """Begin to copy what a disk reads from its backing into its file, which lets go of the backing at the end."""
    with connection.errors(str(uuid)):
        lookup(host, uuid).blockPull(target, 0, 0)


def hydration(host: Any, uuid: UUID, target: str) -> tuple[int, int] | None:
    """Bytes done and in all of a copy that runs on a disk; None if none does."""
    with connection.errors(str(uuid)):
        info = lookup(host, uuid).blockJobInfo(target, 0)
    return (info["cur"], info["end"]) if info else None


def account(host: Any) -> tuple[int, int]:
    """The numbers of the user and the group that QEMU runs as."""
    with connection.errors("capabilities"):
        capabilities = ElementTree.fromstring(host.getCapabilities())  # noqa: S314 - libvirt's own words
    for model in capabilities.iterfind("./host/secmodel"):
        label = next((found.text for found in model.iterfind("baselabel") if model.findtext("model") == "dac"), None)
        if label:
            user, group = label.replace("+", "").split(":")
            return int(user), int(group)
    return os.geteuid(), os.getegid()


def screenshot(host: Any, uuid: UUID) -> bytes:
    """What the first screen shows, as PNG."""
    found = lookup(host, uuid)
    parts: list[bytes] = []
    with connection.errors(found.name()):
        stream = host.newStream(0)
        try:
            found.screenshot(stream, 0, 0)
            while data := stream.recv(1 << 18):
                parts.append(data)
                if sum(map(len, parts)) > _SCREENSHOT_LIMIT:
                    raise connection.HostError(found.name(), "a screenshot of at most 32 MiB", "more")
            stream.finish()
        except BaseException:
            stream.abort()
            raise
    return b"".join(parts)


def wait(condition: Callable[[], bool], seconds: float) -> bool:
    """Ask again and again until `condition` holds or the time is over; whether it holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL)
    return True
