"""Whether an image can become a server on a host, and as which: the image's own properties decide, or refuse."""

import platform
import shutil
from dataclasses import dataclass
from typing import Any, Literal
from xml.etree import ElementTree

from darkroom.catalog import Connection, Row
from darkroom.compute import connection as compute
from darkroom.compute import domain
from darkroom.compute.hosts import Host
from darkroom.errors import ConflictError, RefusedError
from darkroom.model import GiB, MiB

MEMORY = 2048
"""MiB of a server where nothing is said."""
ISO_DISK = 20
"""GiB of the blank disk beside an installation medium where nothing is said; it takes what is written to it."""
_SLACK = 1 * GiB
_RESERVED = 0.9
"""How much of the host's memory servers may take in all."""


class ServerMemoryError(RefusedError):
    """The image asks for more memory, or bears less."""

    code = "server-memory"
    what = "this much memory does not suit the image"
    default_remedy = "give another --ram"


class ServerDiskError(RefusedError):
    """The disk is smaller than the image's, or than its minimum."""

    code = "server-disk"
    what = "this disk is too small for the image"
    default_remedy = "give a larger --disk, or none for the smallest"


class BootModeError(RefusedError):
    """The image boots in the other way, or the host has no firmware for it."""

    code = "boot-mode"
    what = "the image does not boot in this way"


class ArchitectureError(RefusedError):
    """The image is for another processor."""

    code = "architecture"
    what = "the image is for another processor than the host's"
    default_remedy = "use a host of its architecture"


class NotBootableError(RefusedError):
    """The image is a data disk."""

    code = "not-a-system"
    what = "servers are made from images of a system or of a full server, or from an ISO"
    default_remedy = "make a volume of it with `darkroom volume create`"


class NetworkMissingError(RefusedError):
    """The host has no such network, or it is not active."""

    code = "network-not-found"
    what = "the compute host has no such network that is active"
    default_remedy = "see `virsh net-list --all`; `user` and `none` are always there"


class SriovMissingError(RefusedError):
    """The image wants a network card of its own, and the host has none to give."""

    code = "sriov-missing"
    what = "the image asks for SR-IOV, and the host has no network that hands out virtual functions"
    default_remedy = "define a libvirt network with <forward mode='hostdev'>, or `darkroom modify IMAGE --sriov off`"


class HostFullError(ConflictError):
    """The host has no room for it."""

    code = "host-full"
    what = "the compute host has no room for this server"
    default_remedy = "use another host, or delete servers"


@dataclass(frozen=True, slots=True)
class Place:
    """What a server gets: `memory` in MiB, sizes of disks in bytes, with a blank one before a medium."""

    memory: int
    sizes: tuple[int, ...]
    boot_mode: Literal["bios", "uefi"]
    network: str
    queues: int
    most_memory: int
    """What all servers of the host may take together."""


def place(host: Host, image: Row, disks: list[Row], wanted: Any) -> Place:
    """Decide for a `servers.ServerRequest`; raises the errors of this module. Whether there is memory, is not asked."""
    if image["type"] == "data":
        raise NotBootableError(image["name"], "a system image", "a data image")
    properties = image["properties"]
    architecture = properties.get("architecture") or platform.machine()
    if architecture != platform.machine():
        raise ArchitectureError(image["name"], architecture, platform.machine())
    memory = _memory(image["name"], properties, wanted.memory)
    sizes = _sizes(image, disks, wanted.disk)
    mode = _boot_mode(image["name"], properties, disks[0], wanted.boot_mode)
    with compute.open(host.uri) as libvirt:
        network = _network(libvirt, properties, wanted.network)
        with compute.errors("info"):
            most = int(libvirt.getInfo()[1] * _RESERVED)
    _require_storage(host, image["allocated_size"] or 0)
    queues = wanted.cpus if properties.get("multiqueue") else 1
    return Place(memory, sizes, mode, network, queues, most)


def _memory(name: str, properties: dict[str, Any], wanted: int) -> int:
    least, most = properties.get("min_ram") or 0, properties.get("max_ram") or 0
    memory = wanted or max(least, min(MEMORY, most or MEMORY))
    if memory < least:
        raise ServerMemoryError(name, f"at least {least} MiB", f"{memory} MiB")
    if most and memory > most:
        raise ServerMemoryError(name, f"at most {most} MiB", f"{memory} MiB")
    return int(memory)


def _sizes(image: Row, disks: list[Row], wanted: int) -> tuple[int, ...]:
    """The first disk grows to what is wanted, the others are as the image has them; before an ISO comes a blank one."""
    sizes = [disk["virtual_size"] for disk in disks]
    least = (image["properties"].get("min_disk") or 0) * GiB
    if image["type"] == "iso":
        first = wanted * GiB or least or ISO_DISK * GiB
    else:
        least = max(least, sizes.pop(0))
        first = wanted * GiB or least
    if first < least:
        raise ServerDiskError(image["name"], f"at least {-(-least // GiB)} GiB", f"{wanted} GiB")
    return (first, *sizes)


def _boot_mode(name: str, properties: dict[str, Any], disk: Row, wanted: str) -> Literal["bios", "uefi"]:
    stated = properties.get("boot_mode") or ""
    if wanted and stated and wanted != stated:
        raise BootModeError(name, stated, wanted, f"leave out --boot-mode, or give {stated}")
    mode = wanted or stated or ("uefi" if disk["partitions"].get("esp") else "bios")
    if mode == "uefi" and not (domain.OVMF_CODE.exists() and domain.OVMF_VARS.exists()):
        raise BootModeError(name, "firmware for UEFI on the host", "none", "install ovmf on the host")
    return "uefi" if mode == "uefi" else "bios"


def _network(libvirt: Any, properties: dict[str, Any], wanted: str) -> str:
    with compute.errors("networks"):
        active = {network.name(): network for network in libvirt.listAllNetworks() if network.isActive()}
        pools = [name for name, network in active.items() if _hands_out_functions(network.XMLDesc())]
    if properties.get("sriov"):
        if wanted in pools:
            return wanted
        if not pools:
            raise SriovMissingError("networks", "", ", ".join(active) or "none")
        return str(pools[0])
    if wanted == "none":
        return ""
    if wanted != domain.USER_NETWORK and wanted not in active:
        raise NetworkMissingError(wanted, "", ", ".join(active) or "none")
    return wanted


def _hands_out_functions(text: str) -> bool:
    forward = ElementTree.fromstring(text).find("forward")  # noqa: S314 - libvirt's own words
    return forward is not None and forward.get("mode") == "hostdev"


def require_memory(connection: Connection, host: Host, place: Place) -> None:
    """Raise HostFullError if the servers of all projects, this one's row among them, take more memory than they may.

    Until the transaction ends, which it should soon, no other server is counted: two never take the last memory both.
    """
    row = connection.execute("SELECT memory_taken(%s) AS taken", (host.name,)).fetchone()
    assert row
    if row["taken"] > place.most_memory:
        left = max(place.most_memory - (row["taken"] - place.memory), 0)
        raise HostFullError(host.name, f"{place.memory} MiB of memory", f"{left} MiB left of {place.most_memory}")


def _require_storage(host: Host, data: int) -> None:
    """Disks are thin: what the image has as data must fit."""
    free = shutil.disk_usage(host.storage).free
    if data + _SLACK > free:
        raise HostFullError(host.name, f"{(data + _SLACK) // MiB} MiB of storage", f"{free // MiB} MiB free")
