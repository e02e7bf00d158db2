"""Where a guest can be reached: the addresses that a libvirt network has handed out to it."""

import contextlib
from typing import Any
from uuid import UUID

import libvirt

from darkroom.compute import domain


def of(host: Any, uuid: UUID) -> list[str]:
    """The addresses leased to a guest that runs; empty where it has none yet, or its network hands out none."""
    found = domain.lookup(host, uuid)
    interfaces: dict[str, Any] = {}
    with contextlib.suppress(libvirt.libvirtError):  # it does not run, or is on no network of libvirt
        interfaces = found.interfaceAddresses(libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE)
    return [address["addr"] for interface in interfaces.values() for address in interface["addrs"] or ()]
