"""The guest agent: asked within bounded time, for a guest may have none, or one that hangs."""

import json
import time
from typing import Any

import libvirt
import libvirt_qemu

from darkroom.errors import DarkroomError

_PING, _FREEZE = 5, 20
_THAW = 90.0


class ThawError(DarkroomError):
    """The file systems of a guest were frozen, and its agent does not say that they no longer are."""

    code = "thaw-failed"
    what = "the guest's file systems may still be frozen"
    default_remedy = "run `virsh domfsthaw`; if its agent does not answer, restart the server"


def freeze(found: Any) -> bool:
    """Freeze the guest's file systems; False where no agent answers, or it cannot."""
    try:
        ask(found, "guest-ping", _PING)
    except libvirt.libvirtError:
        return False
    try:
        ask(found, "guest-fsfreeze-freeze", _FREEZE)
        return True
    except libvirt.libvirtError:
        thaw(found)  # it may have frozen some, or freeze them yet
        return False


def is_frozen(found: Any) -> bool:
    """Whether the agent says that file systems are frozen."""
    try:
        ask(found, "guest-ping", _PING)
        return bool(ask(found, "guest-fsfreeze-status", _PING) == "frozen")
    except libvirt.libvirtError:
        return False


def thaw(found: Any) -> None:
    """Thaw the guest's file systems; raises ThawError when its agent does not say so in time."""
    deadline = time.monotonic() + _THAW
    while True:
        try:
            ask(found, "guest-fsfreeze-thaw", _FREEZE)
            return
        except libvirt.libvirtError as error:
            if not found.isActive():
                return
            if time.monotonic() > deadline:
                raise ThawError(found.name(), "", error.get_error_message()) from error
        time.sleep(1)


def ask(found: Any, command: str, seconds: int) -> Any:
    """What the guest agent answers within some seconds; raises libvirt's error where it does not."""
    return json.loads(libvirt_qemu.qemuAgentCommand(found, json.dumps({"execute": command}), seconds, 0))["return"]
