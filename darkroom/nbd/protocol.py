"""Numbers and frames of the NBD protocol (github.com/NetworkBlockDevice/nbd, doc/proto.md)."""

import socket
import struct

NBDMAGIC = 0x4E42444D41474943
IHAVEOPT = 0x49484156454F5054
OPTION_REPLY = 0x0003E889045565A9
REQUEST = 0x25609513
SIMPLE_REPLY = 0x67446698
STRUCTURED_REPLY = 0x668E33EF

FIXED_NEWSTYLE, NO_ZEROES = 1, 2
HAS_FLAGS, READ_ONLY, SEND_DF, CAN_MULTI_CONN = 1 << 0, 1 << 1, 1 << 7, 1 << 8

OPT_EXPORT_NAME, OPT_ABORT, OPT_LIST, OPT_INFO, OPT_GO = 1, 2, 3, 6, 7
OPT_STRUCTURED_REPLY, OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT = 8, 9, 10
REP_ACK, REP_SERVER, REP_INFO, REP_META_CONTEXT = 1, 2, 3, 4
REP_ERR_UNSUP, REP_ERR_INVALID, REP_ERR_UNKNOWN = 0x80000001, 0x80000003, 0x80000006
INFO_EXPORT, INFO_BLOCK_SIZE = 0, 3

CMD_READ, CMD_WRITE, CMD_DISC, CMD_BLOCK_STATUS = 0, 1, 2, 7
FLAG_REQ_ONE = 1 << 3
REPLY_DONE = 1
REPLY_NONE, REPLY_OFFSET_DATA, REPLY_BLOCK_STATUS, REPLY_ERROR = 0, 1, 5, 0x8001
STATE_HOLE, STATE_ZERO = 1, 2
EPERM, EIO, EINVAL = 1, 5, 22

GREETING = struct.Struct(">QQH")
CLIENT_FLAGS = struct.Struct(">I")
OPTION = struct.Struct(">QII")
OPTION_REPLY_HEADER = struct.Struct(">QIII")
REQUEST_HEADER = struct.Struct(">IHHQQI")
SIMPLE_HEADER = struct.Struct(">IIQ")
STRUCTURED_HEADER = struct.Struct(">IHHQI")
U16, U32, U64 = struct.Struct(">H"), struct.Struct(">I"), struct.Struct(">Q")
EXTENT = struct.Struct(">II")
EXPORT_INFO = struct.Struct(">HQH")
BLOCK_SIZE_INFO = struct.Struct(">HIII")
EXPORT_NAME_INFO = struct.Struct(">QH")
ERROR_INFO = struct.Struct(">IH")


def receive(connection: socket.socket, length: int) -> bytes:
    """Exactly `length` bytes; raises EOFError where the peer ends before."""
    data = bytearray()
    while len(data) < length:
        piece = connection.recv(length - len(data))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)
