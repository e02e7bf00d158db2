"""What a disk image file is, by our own bounded reading of its header, and whether it is safe.

This is done before any QEMU tool sees the file. What it declares must be what it is; whatever would make a reader open
another file, trust a number beyond the file, or yield other bytes than the guest would see, is refused by a stable
code.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from darkroom.errors import RefusedError
from darkroom.model import Reader

if TYPE_CHECKING:
    from darkroom.settings import Limits


@dataclass(frozen=True, slots=True)
class Inspection:
    """A disk image file that is safe to open: `format` and `subformat`, and the guest-visible size in bytes."""

    format: str
    virtual_size: int
    subformat: str = ""
    details: dict[str, str | int | bool] = field(default_factory=dict)


class FormatMismatchError(RefusedError):
    """The file is not of the format that was declared."""

    code = "format-mismatch"
    what = "the file is not of the format that its name or --format declares"
    default_remedy = "name the format that it really has with --format, if you trust where it comes from"


class PolyglotError(RefusedError):
    """The file can be read as two formats at once."""

    code = "polyglot"
    what = "the file can be read as several formats, with different content"
    default_remedy = "convert it again from its origin"


class HeaderInvalidError(RefusedError):
    """A header field is absurd: outside of the file or of what the format allows."""

    code = "header-invalid"
    what = "the header of the file does not make sense"
    default_remedy = "check the file with its publisher's digest, or convert it again from its origin"


class ExternalReferenceError(RefusedError):
    """The file refers to other files: a backing file, data file, parent or extent."""

    code = "external-reference"
    what = "the file refers to another file, which would be read in its place"
    default_remedy = "flatten it where it was made, such as by `qemu-img convert -O qcow2`, and import the result"


class SnapshotsError(RefusedError):
    """The file holds internal snapshots: data that the guest does not see."""

    code = "internal-snapshots"
    what = "the file holds internal snapshots"
    default_remedy = "remove them with `qemu-img snapshot -d`, or convert the file, which leaves them behind"


class EncryptedPayloadError(RefusedError):
    """The payload of the file is encrypted under a key that Darkroom does not have."""

    code = "encrypted-payload"
    what = "the content of the file is encrypted"
    default_remedy = "decrypt it first; Darkroom encrypts the image itself with --key"


class UncleanError(RefusedError):
    """The file was not closed cleanly; reading it would give wrong bytes."""

    code = "not-clean"
    what = "the file was not closed cleanly, and its tables may be wrong"
    default_remedy = "repair a copy with `qemu-img check -r all`, or shut the machine down and copy it again"


class FeatureUnknownError(RefusedError):
    """The file uses a version, feature or subformat that is not read."""

    code = "feature-unknown"
    what = "the file uses a feature that is not read"
    default_remedy = "convert it with `qemu-img convert`"


class VirtualSizeError(RefusedError):
    """The disk is larger than is accepted, or empty."""

    code = "virtual-size"
    what = "the size of the disk is not accepted"
    default_remedy = "shrink the disk where it was made, or check that the file was copied whole"


class ExpansionBombError(RefusedError):
    """A small file claims very much data."""

    code = "expansion-bomb"
    what = "the file expands beyond the accepted ratio"
    default_remedy = "if you trust it, write it uncompressed with `qemu-img convert`, and import the result"


class UnsafeError(RefusedError):
    """A second inspector, by other authors, refuses what ours did not."""

    code = "unsafe"
    what = "the second inspection (oslo.utils) holds the file for unsafe"
    default_remedy = "convert it with `qemu-img convert` where it was made, and import the result"


class MediumError(RefusedError):
    """An ISO that no machine starts from."""

    code = "iso"
    what = "this ISO is no installation medium: no machine starts from it"
    default_remedy = "give the publisher's bootable ISO; one that holds data alone is of no use to a server"


class ZvhdError(RefusedError):
    """ZVHD and ZVHD2 are closed formats."""

    code = "zvhd"
    what = "ZVHD and ZVHD2 are formats of one vendor, which no open tool reads"
    default_remedy = "export the image as qcow2, vhd or vmdk where it lies, and import that"


def inspect(reader: Reader, declared: str, which: str, limits: "Limits") -> Inspection:
    """Inspect a file; `declared` is its format, or empty where nothing declares it; `which` names it in errors.

    Reads a bounded amount. Raises the RefusedError of the first thing that is wrong.
    """
    # They import this module.
    from darkroom.formats import detect, fields, opinion  # noqa: PLC0415

    if not reader.size:
        raise VirtualSizeError(which, "a disk", "an empty file", "check that it was copied whole")
    if declared in ("zvhd", "zvhd2"):
        raise ZvhdError(which)
    file = fields.File(reader, which, limits)
    found = detect.formats(file)
    if len(found) > 1:
        raise PolyglotError(which, "one format", " and ".join(found))
    kind = found[0] if found else "raw"
    if kind in detect.REFUSED:
        raise detect.REFUSED[kind](which, "a disk image", kind)
    if declared and declared != kind:
        raise FormatMismatchError(which, declared, kind if found else "no known header")
    result = detect.inspector(kind)(file)
    opinion.agree(fields.File(reader, which, limits), result)
    return result
