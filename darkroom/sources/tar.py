"""The members of a tar archive (POSIX ustar and pax, GNU), walked in bounded time; plain files only.

tarfile of the standard library recurses and loops on crafted headers, and knows a lot that an OVA must not hold.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from darkroom.model import Reader

_RECORD = 512
_MAX_TEXT = 64 * 1024
_MAX_NAME = 255
_FILE, _PAX, _GNU_NAME = (b"0", b"\0"), b"x", b"L"


class TarError(Exception):
    """The archive is not one, or holds what is not allowed; the text says what."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive: where its bytes are."""

    name: str
    offset: int
    size: int


def is_tar(reader: Reader) -> bool:
    """Whether a tar archive begins here; those from before POSIX (without a magic) are not taken for one."""
    return reader.size >= _RECORD and reader.read(257, 5) == b"ustar"


def members(reader: Reader, most: int) -> dict[str, Member]:
    """Every member by its name. Raises TarError, for more than `most` members too."""
    found: dict[str, Member] = {}
    for member in _walk(reader, most * 2):
        if not _is_plain(member.name):
            raise TarError(f"a name that is not plain: {member.name[:_MAX_NAME]!r}")
        if member.name in found:
            raise TarError(f"two files named {member.name!r}")
        found[member.name] = member
        if len(found) > most:
            raise TarError(f"more than {most} files")
    return found


def _is_plain(name: str) -> bool:
    special = name.startswith(".") or any(c in "/\\" or ord(c) < 32 or 0xD800 <= ord(c) < 0xE000 for c in name)
    return 0 < len(name) <= _MAX_NAME and not special


def _walk(reader: Reader, most: int) -> Iterator[Member]:
    """The files in order; a pax or GNU header, at most one of each, tells more of the file that follows it."""
    at, extended = 0, dict[str, str]()
    for _ in range(most):
        if at + _RECORD > reader.size:
            raise TarError("no end of the archive")
        header = reader.read(at, _RECORD)
        if header == bytes(_RECORD):
            if extended:
                raise TarError("a header of no file")
            return
        _check(header)
        kind, size = header[156:157], _number(header[124:136])
        if kind in _FILE:
            size = _decimal(extended["size"]) if "size" in extended else size
            yield Member(extended.get("path") or _name(header), _within(reader, at + _RECORD, size), size)
            extended = {}
        elif kind in (_PAX, _GNU_NAME) and size <= _MAX_TEXT:
            text = reader.read(_within(reader, at + _RECORD, size), size)
            more = _pax(text) if kind == _PAX else {"path": _text(text)}
            if extended.keys() & more.keys():
                raise TarError("two headers of one file")
            extended |= more
        else:
            raise TarError(f"an entry of type {kind!r}, {size} bytes")
        at += _RECORD + -(-size // _RECORD) * _RECORD
    raise TarError(f"more than {most} headers")


def _check(header: bytes) -> None:
    """The checksum is the sum of the header's bytes with its own field as spaces."""
    if sum(header[:148]) + 8 * 32 + sum(header[156:]) != _number(header[148:156]):
        raise TarError("a header with a wrong checksum")


def _within(reader: Reader, offset: int, size: int) -> int:
    if offset + size > reader.size:
        raise TarError(f"{size} bytes at {offset} of {reader.size}")
    return offset


def _number(data: bytes) -> int:
    """Octal digits, or with the first bit set a binary number, as GNU writes from 8 GiB on."""
    if data[0] == 0x80:
        return int.from_bytes(data[1:], "big")
    digits = data.strip(b" \0")
    if not re.fullmatch(rb"[0-7]{1,12}", digits):
        raise TarError(f"no number: {data!r}")
    return int(digits, 8)


def _decimal(text: str) -> int:
    if not re.fullmatch("[0-9]{1,19}", text):
        raise TarError(f"no number: {text[:20]!r}")
    return int(text)


def _name(header: bytes) -> str:
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{_text(header[:100])}" if prefix else _text(header[:100])


def _text(data: bytes) -> str:
    return data.partition(b"\0")[0].decode(errors="surrogateescape")


def _pax(data: bytes) -> dict[str, str]:
    """Records "LENGTH KEY=VALUE" and a line feed (POSIX, pax); of these, name and size matter here."""
    found: dict[str, str] = {}
    while data:
        match = re.match(rb"(\d{1,5}) ([^=]{1,64})=", data)
        length = int(match[1]) if match else 0
        if not match or not match.end() < length <= len(data) or data[length - 1 : length] != b"\n":
            raise TarError("a pax header that is damaged")
        key = _text(match[2])
        if key.startswith(("GNU.sparse", "SCHILY.realsize")) or key in found:
            raise TarError(f"a pax header with {key!r}")
        if key in ("path", "size"):
            found[key] = _text(data[match.end() : length - 1])
        data = data[length:]
    return found
