"""The rules for what people may write on an image: names, descriptions, tags, and the settings of its servers.

The limits are those of the Image Management Service that Darkroom reproduces. One error class a rule.
"""

import re
from collections.abc import Mapping
from typing import Any

from darkroom.errors import RefusedError
from darkroom.model import GiB
from darkroom.settings import TagLimits

MAX_NAME = 128
MAX_DESCRIPTION = 1024
MAX_DISK = {"system": 1024, "data": 2048, "full": 1024, "iso": 1024}
"""GiB, by image type."""
MAX_RAM = 16 * 1024 * 1024
"""MiB."""
MAX_CUSTOM = 64
"""Properties of people's own on one image."""
MAX_CUSTOM_VALUE = 255
BOOT_MODES = ("bios", "uefi")
SETTINGS = ("min_ram", "max_ram", "min_disk", "multiqueue", "sriov", "boot_mode")
"""The properties of an image that people set, and that servers are made by: MiB, MiB, GiB, flags, BOOT_MODES."""
RESERVED = frozenset({*SETTINGS, "architecture", "os_type", "os_version", "source", "custom", "disks"}) | frozenset(
    {"id", "name", "status", "type", "description", "key", "version", "family", "protected", "tags", "replaced_by"}
)
"""Names with a meaning of their own, which no property of people's own may take."""
NAME_PATTERN = r"^[A-Za-z0-9._-]([A-Za-z0-9 ._-]{0,126}[A-Za-z0-9._-])?$"
_CUSTOM = re.compile(r"[a-z][a-z0-9_.:-]{0,63}")
_ONE_LINE = re.compile(r"[^\x00-\x1f\x7f-\x9f]*")


class NameInvalidError(RefusedError):
    """A name that breaks the rules."""

    code = "name-invalid"
    what = "this cannot be a name"
    default_remedy = f"use 1 to {MAX_NAME} letters, digits, dots, dashes, underscores and spaces, no space at an end"


class FamilyInvalidError(RefusedError):
    """A name of a family that breaks the rules."""

    code = "family-invalid"
    what = "this cannot be the name of a family"
    default_remedy = f"use 1 to {MAX_NAME} letters, digits, dots, dashes and underscores"


class DescriptionError(RefusedError):
    """A description that breaks the rules."""

    code = "description-invalid"
    what = "this cannot be a description"
    default_remedy = f"use at most {MAX_DESCRIPTION} characters in one line, without < and >"


class MemoryInvalidError(RefusedError):
    """A minimum or maximum memory that breaks the rules."""

    code = "memory-invalid"
    what = "these cannot be the minimum and maximum memory"
    default_remedy = "give MiB, the maximum not below the minimum"


class DiskError(RefusedError):
    """A minimum disk that breaks the rules."""

    code = "min-disk-invalid"
    what = "this cannot be the minimum disk"


class MinimumDiskError(RefusedError):
    """The minimum disk is smaller than the image's disk."""

    code = "min-disk-too-small"
    what = "the minimum disk is smaller than the image's own disk"
    default_remedy = "give a larger --min-disk, or none"


class BootModeError(RefusedError):
    """A boot mode that does not exist, or that the architecture does not have."""

    code = "boot-mode-invalid"
    what = "this cannot be the boot mode"
    default_remedy = "ARM images boot by uefi only"


class DataDiskError(RefusedError):
    """A setting of a server's own, on an image of a data disk."""

    code = "data-disk"
    what = "a data disk does not boot and has no network"
    default_remedy = "set this on a system image"


class PropertyError(RefusedError):
    """A property of people's own that breaks the rules."""

    code = "property-invalid"
    what = "this cannot be a property"
    default_remedy = (
        f"use at most {MAX_CUSTOM} properties with lower-case names of 1 to 64 letters, digits and _ . : - that begin "
        f"with a letter, and values of at most {MAX_CUSTOM_VALUE} characters in one line"
    )


class PropertyReservedError(RefusedError):
    """A property of people's own with a name that Darkroom uses itself."""

    code = "property-reserved"
    what = "this name has a meaning of its own"
    default_remedy = "choose another name, or use the option of that name"


class TagError(RefusedError):
    """Tags that break the rules."""

    code = "tag-invalid"
    what = "these cannot be the tags"


def check_name(name: str) -> None:
    """Raise NameInvalidError unless `name` can be the name of an image or a key."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise NameInvalidError(repr(name[: MAX_NAME + 1]))


def check_family(name: str) -> None:
    """Raise FamilyInvalidError unless `name` can be the name of a family."""
    if not re.fullmatch(rf"[A-Za-z0-9._-]{{1,{MAX_NAME}}}", name):
        raise FamilyInvalidError(repr(name[: MAX_NAME + 1]))


def check_description(text: str) -> None:
    """Raise DescriptionError unless `text` can be a description."""
    if len(text) > MAX_DESCRIPTION or set(text) & set("<>") or not _ONE_LINE.fullmatch(text):
        raise DescriptionError(repr(text[:40]), "", f"{len(text)} characters")


def check_memory(minimum: int, maximum: int) -> None:
    """Raise MemoryInvalidError unless both are MiB within bounds; 0 means not given."""
    if not 0 <= minimum <= MAX_RAM or not 0 <= maximum <= MAX_RAM or (maximum and maximum < minimum):
        raise MemoryInvalidError(f"{minimum} to {maximum} MiB")


def check_min_disk(size: int, kind: str) -> None:
    """Raise DiskError unless `size` is GiB within the bounds of the image's type; 0 means not given."""
    if not 0 <= size <= MAX_DISK[kind]:
        raise DiskError(f"{size} GiB", f"1 to {MAX_DISK[kind]} GiB for a {kind} disk", f"{size}")


def check_tags(tags: Mapping[str, str]) -> None:
    """Raise TagError unless the tags are few and short enough, of the characters that are allowed."""
    limits = TagLimits()
    if len(tags) > limits.count:
        raise TagError("tags", f"at most {limits.count}", f"{len(tags)}", "take some away with `darkroom untag`")
    characters = re.compile(rf"[A-Za-z0-9_{re.escape(limits.characters)}-]*")
    for key, value in tags.items():
        short = 1 <= len(key) <= limits.key and len(value) <= limits.value
        if not (short and characters.fullmatch(key) and characters.fullmatch(value)):
            allowed = " ".join(["letters, digits, dashes, underscores", *limits.characters])
            remedy = f"use {allowed}; keys of 1 to {limits.key} and values of at most {limits.value} characters"
            raise TagError(f"{key}={value}"[:100], "", "", remedy)


def check_settings(kind: str, virtual_size: int, properties: Mapping[str, Any]) -> None:
    """Raise the RefusedError of the first rule that the properties of an image break, as they stand together.

    `kind` is the image's type, `virtual_size` the bytes of its disk 0.
    """
    minimum = properties.get("min_disk", 0)
    check_memory(properties.get("min_ram", 0), properties.get("max_ram", 0))
    check_min_disk(minimum, kind)
    check_disk_fits(minimum, virtual_size)
    servers_own = [name for name in ("boot_mode", "multiqueue", "sriov") if properties.get(name)]
    if kind == "data" and servers_own:
        raise DataDiskError(servers_own[0])
    check_boot_mode(properties.get("boot_mode", ""), properties.get("architecture", ""))
    check_custom(properties.get("custom", {}))


def check_disk_fits(minimum: int, virtual_size: int, which: str = "min-disk") -> None:
    """Raise MinimumDiskError if `minimum` is given, in GiB, and the disk of `virtual_size` bytes does not fit."""
    if minimum and minimum * GiB < virtual_size:
        raise MinimumDiskError(which, f"{-(-virtual_size // GiB)} GiB", f"{minimum} GiB")


def check_boot_mode(mode: str, architecture: str) -> None:
    """Raise BootModeError unless the architecture has this boot mode; "" means not given."""
    if mode and mode not in (("uefi",) if architecture == "aarch64" else BOOT_MODES):
        raise BootModeError(mode, "uefi" if architecture == "aarch64" else "bios or uefi", mode)


def check_custom(properties: Mapping[str, str]) -> None:
    """Raise PropertyError or PropertyReservedError unless these can be an image's properties of people's own."""
    if len(properties) > MAX_CUSTOM:
        raise PropertyError("properties", f"at most {MAX_CUSTOM}", f"{len(properties)}")
    for name, value in properties.items():
        if name in RESERVED:
            raise PropertyReservedError(name)
        if not (_CUSTOM.fullmatch(name) and len(value) <= MAX_CUSTOM_VALUE and _ONE_LINE.fullmatch(value)):
            raise PropertyError(f"{name}={value}"[:100])
