"""A connection to a libvirt daemon, whose errors become Darkroom's."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import libvirt

from darkroom.errors import ConflictError, DarkroomError, MissingError, UnavailableError

_GONE = {libvirt.VIR_ERR_NO_CONNECT, libvirt.VIR_ERR_INVALID_CONN, libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_ERR_RPC}
_BUSY = {libvirt.VIR_ERR_OPERATION_TIMEOUT, libvirt.VIR_ERR_RESOURCE_BUSY}

libvirt.registerErrorHandler(lambda *_: None, None)  # else libvirt writes each error to stderr too


class HostUnavailableError(UnavailableError):
    """libvirt on the compute host does not answer, or went away in the middle."""

    code = "host-unavailable"
    what = "libvirt on the compute host does not answer"
    default_remedy = "start libvirtd, and see `darkroom host check`"


class HostError(DarkroomError):
    """libvirt or QEMU on the host refuses what was asked of it."""

    code = "host-error"
    what = "the compute host could not do it"
    default_remedy = "see `darkroom host check`"


class DomainMissingError(MissingError):
    """libvirt knows no such domain."""

    code = "domain-not-found"
    what = "the compute host has no such domain"


class DomainBusyError(ConflictError):
    """Another job works on the domain."""

    code = "domain-busy"
    what = "another job works on the domain"
    default_remedy = "try again when it is done"


class DomainStateError(ConflictError):
    """The domain does not run, or does, where the opposite is needed."""

    code = "domain-state"
    what = "the state of the domain does not allow it"


_ERRORS: dict[int, type[DarkroomError]] = {
    libvirt.VIR_ERR_NO_DOMAIN: DomainMissingError,
    libvirt.VIR_ERR_OPERATION_INVALID: DomainStateError,
    **dict.fromkeys(_BUSY, DomainBusyError),
    **dict.fromkeys(_GONE, HostUnavailableError),
}


@contextmanager
def open(uri: str) -> Iterator[Any]:
    """A connection for the block, as libvirt gives it; raises HostUnavailableError."""
    with errors(uri):
        opened = libvirt.open(uri)
    try:
        yield opened
    finally:
        try:
            opened.close()
        except libvirt.libvirtError:
            pass  # the daemon went away


@contextmanager
def errors(which: str) -> Iterator[None]:
    """Turn errors of libvirt in the block into those of this module, about `which`."""
    try:
        yield
    except libvirt.libvirtError as error:
        kind = _ERRORS.get(error.get_error_code(), HostError)
        raise kind(which, "", error.get_error_message() or str(error)) from error
