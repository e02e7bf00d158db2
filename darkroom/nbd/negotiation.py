"""The server's half of the fixed newstyle handshake: a client agrees with us on how to read the one export.

Specification: github.com/NetworkBlockDevice/nbd, doc/proto.md, "Fixed newstyle negotiation".
"""

import socket
import struct
from dataclasses import dataclass

from darkroom.model import KiB, MiB
from darkroom.nbd import protocol as p

MAX_REQUEST = 32 * MiB
META_CONTEXT = b"base:allocation"
META_CONTEXT_ID = 1

_MAX_OPTION = 8 * KiB
_MAX_OPTIONS = 64
_BLOCK_SIZES = (1, 512 * KiB, MAX_REQUEST)
_EXPORT_FLAGS = p.HAS_FLAGS | p.READ_ONLY | p.SEND_DF | p.CAN_MULTI_CONN


class ProtocolError(Exception):
    """The client does not speak the protocol, or asks for more than is reasonable."""


@dataclass(slots=True)
class Agreed:
    """What a client may use: structured replies, block status."""

    structured: bool = False
    meta_context: bool = False


def negotiate(connection: socket.socket, size: int) -> Agreed | None:
    """Answer options until the client begins to read, or wants no more (None). Raises ProtocolError, EOFError."""
    connection.sendall(p.GREETING.pack(p.NBDMAGIC, p.IHAVEOPT, p.FIXED_NEWSTYLE | p.NO_ZEROES))
    (flags,) = p.CLIENT_FLAGS.unpack(p.receive(connection, p.CLIENT_FLAGS.size))
    agreed = Agreed()
    for _ in range(_MAX_OPTIONS):
        magic, option, length = p.OPTION.unpack(p.receive(connection, p.OPTION.size))
        if magic != p.IHAVEOPT or length > _MAX_OPTION:
            raise ProtocolError
        data = p.receive(connection, length)
        if option == p.OPT_EXPORT_NAME:
            if data:
                raise ProtocolError  # this option has no other way to say that there is no such export
            padding = b"" if flags & p.NO_ZEROES else bytes(124)
            connection.sendall(p.EXPORT_NAME_INFO.pack(size, _EXPORT_FLAGS) + padding)
            return agreed
        try:
            replies = _answer(option, data, agreed, size)
        except (struct.error, IndexError):
            replies = [(p.REP_ERR_INVALID, b"")]
        for kind, body in replies:
            connection.sendall(p.OPTION_REPLY_HEADER.pack(p.OPTION_REPLY, option, kind, len(body)) + body)
        if option == p.OPT_ABORT:
            return None
        if option == p.OPT_GO and replies[-1][0] == p.REP_ACK:
            return agreed
    raise ProtocolError


def _answer(option: int, data: bytes, agreed: Agreed, size: int) -> list[tuple[int, bytes]]:
    """The kinds and bodies of the replies to one option."""
    done = [(p.REP_ACK, b"")]
    if option in (p.OPT_ABORT, p.OPT_STRUCTURED_REPLY):
        agreed.structured |= option == p.OPT_STRUCTURED_REPLY
        return done
    if option == p.OPT_LIST:
        return [(p.REP_SERVER, p.U32.pack(0)), *done]
    if option in (p.OPT_INFO, p.OPT_GO):
        if _text(data, 0)[0]:
            return [(p.REP_ERR_UNKNOWN, b"")]
        export = p.EXPORT_INFO.pack(p.INFO_EXPORT, size, _EXPORT_FLAGS)
        blocks = p.BLOCK_SIZE_INFO.pack(p.INFO_BLOCK_SIZE, *_BLOCK_SIZES)
        return [(p.REP_INFO, export), (p.REP_INFO, blocks), *done]
    if option in (p.OPT_LIST_META_CONTEXT, p.OPT_SET_META_CONTEXT):
        return _meta_context(option, data, agreed)
    return [(p.REP_ERR_UNSUP, b"")]


def _meta_context(option: int, data: bytes, agreed: Agreed) -> list[tuple[int, bytes]]:
    name, at = _text(data, 0)
    (count,) = p.U32.unpack_from(data, at)
    at += p.U32.size
    queries = []
    for _ in range(count):
        query, at = _text(data, at)
        queries.append(query)
    if not agreed.structured:
        return [(p.REP_ERR_INVALID, b"")]
    if name:
        return [(p.REP_ERR_UNKNOWN, b"")]
    if option == p.OPT_SET_META_CONTEXT:
        asked = agreed.meta_context = META_CONTEXT in queries
    else:
        asked = not queries or META_CONTEXT in queries or b"base:" in queries
    found = [(p.REP_META_CONTEXT, p.U32.pack(META_CONTEXT_ID) + META_CONTEXT)] if asked else []
    return [*found, (p.REP_ACK, b"")]


def _text(data: bytes, at: int) -> tuple[bytes, int]:
    """A text with its length before it, and where it ends."""
    (length,) = p.U32.unpack_from(data, at)
    end = at + p.U32.size + length
    if end > len(data):
        raise IndexError
    return data[at + p.U32.size : end], end
