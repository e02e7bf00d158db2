"""The rules for what people may write on an image: names, descriptions, memory, disk, tags.

The limits are those of the Image Management Service that Darkroom reproduces.
"""

import re
from collections.abc import Mapping

from darkroom.errors import RefusedError

MAX_NAME = 128
MAX_DESCRIPTION = 1024
MAX_DISK = {"system": 1024, "data": 2048, "full": 1024}
"""GiB, by image type."""
MAX_RAM = 16 * 1024 * 1024
"""MiB."""
MAX_TAGS = 10
MAX_TAG_KEY = 36
MAX_TAG_VALUE = 43
NAME_PATTERN = r"^[A-Za-z0-9._-]([A-Za-z0-9 ._-]{0,126}[A-Za-z0-9._-])?$"
_TAG = re.compile(r"[A-Za-z0-9_-]*")


class NameInvalidError(RefusedError):
    """A name that breaks the rules."""

    code = "name-invalid"
    what = "this cannot be a name"
    default_remedy = f"use 1 to {MAX_NAME} letters, digits, dots, dashes, underscores and spaces, no space at an end"


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


class TagError(RefusedError):
    """Tags that break the rules."""

    code = "tag-invalid"
    what = "these cannot be the tags"
    default_remedy = (
        f"use at most {MAX_TAGS} tags of letters, digits, dashes and underscores, "
        f"keys of 1 to {MAX_TAG_KEY} and values of at most {MAX_TAG_VALUE} characters"
    )


def check_name(name: str) -> None:
    """Raise NameInvalidError unless `name` can be the name of an image or a key."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise NameInvalidError(repr(name[: MAX_NAME + 1]))


def check_description(text: str) -> None:
    """Raise DescriptionError unless `text` can be a description."""
    if len(text) > MAX_DESCRIPTION or set(text) & set("\r\n<>"):
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
    if len(tags) > MAX_TAGS:
        raise TagError("tags", f"at most {MAX_TAGS}", f"{len(tags)}")
    for key, value in tags.items():
        short = 1 <= len(key) <= MAX_TAG_KEY and len(value) <= MAX_TAG_VALUE
        if not (short and _TAG.fullmatch(key) and _TAG.fullmatch(value)):
            raise TagError(f"{key}={value}"[:100])
