"""A client of the NBD server that says what it is told to, and servers for it."""

import socket
import threading
from contextlib import contextmanager

from darkroom.nbd import client, server
from darkroom.nbd import protocol as p
from tests.strategies import BytesReader


@contextmanager
def servers(folder):
    """Makes servers of lists of parts or of readers; none outlives the block."""
    made = []

    def serve(parts=(), reader=None):
        made.append(server.NbdServer(reader or BytesReader(parts), folder / f"s{len(made)}").__enter__())
        return made[-1]

    try:
        yield serve
    finally:
        for one in made:
            one.__exit__(None, None, None)
    assert not any(one.path.exists() for one in made)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("nbd")]


def still_serves(one):
    """Whether an ordinary client gets every byte."""
    found = client.connect(one.uri)
    whole = found.read(0, found.size)
    found.close()
    return whole == one.reader.data


class Client:
    """A client that says what it is told to."""

    def __init__(self, address):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(str(address))

    def greet(self, flags=p.NO_ZEROES | p.FIXED_NEWSTYLE):
        assert p.GREETING.unpack(p.receive(self.socket, p.GREETING.size))[:2] == (p.NBDMAGIC, p.IHAVEOPT)
        self.socket.sendall(p.CLIENT_FLAGS.pack(flags))
        return self

    def option(self, option, data=b""):
        """The kinds and bodies of the replies."""
        self.socket.sendall(p.OPTION.pack(p.IHAVEOPT, option, len(data)) + data)
        replies = []
        while not replies or replies[-1][0] in (p.REP_SERVER, p.REP_INFO, p.REP_META_CONTEXT):
            header = p.OPTION_REPLY_HEADER.unpack(p.receive(self.socket, p.OPTION_REPLY_HEADER.size))
            assert header[:2] == (p.OPTION_REPLY, option)
            replies.append((header[2], p.receive(self.socket, header[3])))
        return replies

    def begin(self):
        """Transmission with simple replies."""
        self.greet().socket.sendall(p.OPTION.pack(p.IHAVEOPT, p.OPT_EXPORT_NAME, 0))
        p.receive(self.socket, p.EXPORT_NAME_INFO.size)
        return self

    def ask(self, command, offset, length, handle=7, data=b""):
        self.socket.sendall(p.REQUEST_HEADER.pack(p.REQUEST, 0, command, handle, offset, length) + data)

    def answer(self, length=0):
        """The handle, error and data of a simple reply."""
        magic, error, handle = p.SIMPLE_HEADER.unpack(p.receive(self.socket, p.SIMPLE_HEADER.size))
        assert magic == p.SIMPLE_REPLY
        return handle, error, p.receive(self.socket, 0 if error else length)

    def has_ended(self):
        """Whether the server has closed the connection, after what it sent before."""
        try:
            while self.socket.recv(1 << 20):
                pass
        except ConnectionResetError:
            pass
        self.socket.close()
        return True
