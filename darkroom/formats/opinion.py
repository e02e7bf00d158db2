"""A second opinion on a file that passed our own inspection: oslo.utils' format inspector.

It knows no QED, no qcow 1 and no extended L2 entries, and looks into no VHD, VHDX or VDI; there it only says whether
it sees yet another format.
"""

import io
import logging

from oslo_utils.imageutils import format_inspector

from darkroom.formats import Inspection, PolyglotError, UnsafeError
from darkroom.formats.fields import SECTOR, File
from darkroom.model import MiB

_HEAD = 1 * MiB + SECTOR
"""The header of a VMDK and the longest descriptor."""
_TAIL = 3 * SECTOR
_PIECE = 64 * 1024

# It logs as errors what it also raises.
logging.getLogger(format_inspector.__name__).setLevel(logging.CRITICAL)


def agree(file: File, ours: Inspection) -> None:
    """Raise PolyglotError or UnsafeError unless oslo.utils sees the same format, and nothing unsafe in it."""
    expected = "qcow2" if ours.format == "qcow" else ours.format
    seen = {inspector.NAME: inspector for inspector in _inspectors(file)}
    # The bytes of a disk come first in these, and with them its partition table.
    allowed = {"raw", "gpt", expected} if ours.format in ("raw", "vhd", "iso") else {"raw", expected}
    if others := seen.keys() - allowed:
        raise PolyglotError(file.which, ours.format, " and ".join(sorted(others)))
    if ours.format != "vmdk" and (ours.format != "qcow2" or ours.details["extended_l2"]):
        return
    if expected not in seen:
        raise UnsafeError(file.which, expected, "no such format")
    try:
        seen[expected].safety_check()
    except format_inspector.SafetyCheckFailed as error:
        raise UnsafeError(file.which, "", ", ".join(sorted(error.failures))) from None


def _inspectors(file: File) -> list[format_inspector.FileInspector]:
    """Those that match, when they are shown the start of the file and its end."""
    head = file.peek(0, _HEAD)
    tail = file.peek(max(len(head), file.size - _TAIL), _TAIL)
    wrapper = format_inspector.InspectWrapper(io.BytesIO(head + tail))
    while wrapper.read(_PIECE):
        pass
    wrapper.close()
    return wrapper.formats or []
