"""QEMU's tools, confined, always with the driver named: formats are never probed.

`serve` gives the guest-visible bytes of a disk image file, `convert` writes one.
"""

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from darkroom import leftovers, rawdisk, sandbox
from darkroom.errors import DarkroomError, RefusedError
from darkroom.formats import Inspection
from darkroom.model import GiB, MiB, Reader
from darkroom.nbd import client, server
from darkroom.sources import Source

DRIVERS = {name: name for name in ("raw", "qcow2", "qcow", "qed", "vmdk", "vhdx", "vdi")} | {"vhd": "vpc"}
"""Our names of formats, and QEMU's."""

_OUTPUT_OPTIONS = {
    "vhd": "subformat=dynamic,force_size=on",
    "vmdk": "subformat=monolithicSparse",
    "stream": "subformat=streamOptimized",
}
"""`stream` is a VMDK that is written once, from front to back, compressed: what an OVA is made of."""
_READY = 20.0
_POLL = 0.005
_ENDING = 2.0
_CONNECTIONS = 4
_MAX_WORDS = 1 * MiB
_LONGEST = 70

Progress = Callable[[int, int], None]


class SourceUnreadableError(RefusedError):
    """QEMU's driver does not open the file, although its header passed inspection."""

    code = "source-unreadable"
    what = "the disk image cannot be opened"
    default_remedy = "check the file with `qemu-img check`, or convert it again from its origin"


class SizeMismatchError(RefusedError):
    """QEMU sees a disk of another size than the header that was inspected says."""

    code = "size-mismatch"
    what = "the disk has another size than its header says"


class ConvertError(DarkroomError):
    """The export could not be written."""

    code = "convert-failed"
    what = "the file could not be written"
    default_remedy = "see that there is space, and that the folder may be written to"


@contextmanager
def serve(
    source: Source,
    inspection: Inspection,
    folder: Path,
    *,
    passphrase: bytes = b"",
    backing: Path | None = None,
    bitmap: str = "",
) -> Iterator[Reader]:
    """The guest-visible bytes of a source, by a confined qemu-nbd; sockets are made below `folder`.

    `passphrase` opens the LUKS layer of a qcow2; `backing` is the socket of an NBD export of the raw disk that it lies
    over, which its header names and nothing else: QEMU takes no other in its place. With a `bitmap` of the qcow2, data
    extents are what that marks. Raises SourceUnreadableError, also where the bitmap is missing or broken,
    SizeMismatchError, NbdUnavailableError, and what reading the source raises.
    """
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qemu-", dir=_short(folder))))
        file, descriptors, behind = _file_node(stack, source, place)
        path = place / "disk"
        options = f"driver={DRIVERS[inspection.format]},{file}"
        if inspection.format == "vhd":
            options += ",force_size_calc=current_size"
        if backing:
            options += ",backing.driver=raw"
        words, pipes = stack.enter_context(secret(passphrase))
        options += ",encrypt.key-secret=key" if passphrase else ""
        words += [f"--bitmap={bitmap}"] if bitmap else []
        arguments = ["qemu-nbd", "--read-only", "--persistent", f"--shared={_CONNECTIONS * 2}", *words, "--image-opts"]
        confined = sandbox.running(
            [*arguments, "--socket", str(path), options],
            write=[place, backing] if backing else [place],
            descriptors=[*descriptors, *pipes],
            file_size=_MAX_WORDS,
        )
        process = stack.enter_context(confined)
        try:
            reader = _connect(process, path, source.name, bitmap)
            stack.callback(reader.close)
            if reader.size != inspection.virtual_size:
                raise SizeMismatchError(source.name, f"{inspection.virtual_size} bytes", f"{reader.size}")
            yield reader
        except (client.NbdUnavailableError, SourceUnreadableError):
            # QEMU says only that a read failed; why it did, the server of the file knows.
            for error in behind.errors if behind else []:
                raise error from None
            raise


@contextmanager
def secret(passphrase: bytes) -> Iterator[tuple[list[str], list[int]]]:
    """The options by which a tool of QEMU finds a passphrase in a pipe, as `key`, and the descriptors that it needs.

    Neither its command line nor any file has it. None are needed for an empty one.
    """
    if not passphrase:
        yield [], []
        return
    reading, writing = os.pipe()
    try:
        os.write(writing, passphrase)
        os.close(writing)
        yield ["--object", f"secret,id=key,file=/dev/fd/{reading}"], [reading]
    finally:
        os.close(reading)


def _file_node(stack: ExitStack, source: Source, place: Path) -> tuple[str, list[int], server.NbdServer | None]:
    """QEMU's options for the bytes of the file itself, the descriptors that they name, the server that they name."""
    if source.fd is None or not sandbox.can_reopen(source.fd):
        serving = stack.enter_context(server.NbdServer(source.reader, place / "file"))
        return f"file.driver=nbd,file.server.type=unix,file.server.path={serving.path}", [], serving
    local = f"driver=file,{{}}filename=/proc/self/fd/{source.fd},{{}}locking=off"
    if source.fd_range is None:
        return "file." + local.format("file.", "file."), [source.fd], None
    offset, size = source.fd_range
    nested = "file." + local.format("file.file.", "file.file.")
    return f"file.driver=raw,file.offset={offset},file.size={size},file.{nested}", [source.fd], None


def _connect(process: sandbox.Running, path: Path, which: str, bitmap: str) -> client.NbdReader:
    """A reader of what qemu-nbd serves. It listens before it opens the image, and ends where it cannot open it."""
    deadline = time.monotonic() + _READY
    while not _accepts(path):
        if process.process.poll() is not None:
            raise SourceUnreadableError(which, "", process.words())
        if time.monotonic() > deadline:
            raise client.NbdUnavailableError(which, f"qemu-nbd to listen within {_READY:.0f} s", process.words())
        time.sleep(_POLL)
    try:
        return client.connect(f"nbd+unix:///?socket={path}", _CONNECTIONS, bitmap=bitmap)
    except client.NbdUnavailableError:
        try:
            process.process.wait(_ENDING)
        except subprocess.TimeoutExpired:
            pass
        else:
            raise SourceUnreadableError(which, "", process.words()) from None
        raise


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def convert(reader: Reader, path: Path, format: str, *, progress: Progress) -> None:
    """Write all of `reader` to a new file of a format; raises ConvertError, or what the reader raised.

    `path` must not exist, and does not exist after a failure.
    """
    try:
        if format == "raw":
            _write_raw(reader, path, progress)
        else:
            _convert_beside(reader, path, format, progress)
    except OSError as error:
        raise ConvertError(str(path), "", error.strerror or str(error)) from None


def _write_raw(reader: Reader, path: Path, progress: Progress) -> None:
    try:
        rawdisk.write_raw(reader, path, progress)
    except FileExistsError:
        raise
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _convert_beside(reader: Reader, path: Path, format: str, progress: Progress) -> None:
    # Only a folder of its own is writable for the confined program; the file leaves it when it is whole.
    with tempfile.TemporaryDirectory(prefix=leftovers.prefix(), dir=path.parent) as folder:
        output = Path(folder) / "output"
        with tempfile.TemporaryDirectory(prefix="darkroom-", dir=_short(Path(tempfile.gettempdir()))) as sockets:
            with server.NbdServer(reader, Path(sockets) / "disk") as serving:
                _convert(serving, output, format, reader.size, progress)
        output.rename(path)


def _convert(serving: server.NbdServer, output: Path, format: str, size: int, progress: Progress) -> None:
    source = f"driver=nbd,server.type=unix,server.path={serving.path}"
    options = ["-o", _OUTPUT_OPTIONS[format]] if format in _OUTPUT_OPTIONS else []
    arguments = ["qemu-img", "convert", "-p", "-m", "16", "--image-opts", "-O", DRIVERS.get(format, "vmdk"), *options]
    confined = sandbox.running(
        [*arguments, source, str(output)],
        read=[serving.path.parent],
        write=[output.parent],
        stdout=subprocess.PIPE,
        file_size=2 * size + GiB,
    )
    with confined as running:
        assert running.process.stdout
        for share in _shares(running.process.stdout):
            progress(int(size * share), size)
        code = running.process.wait()
        words = running.words()
    for error in serving.errors:
        raise error
    if code:
        found = words.splitlines()[-1] if words else f"exit code {code}"
        raise ConvertError(str(output.parent.parent), "", found)


def _shares(output: IO[bytes]) -> Iterator[float]:
    """The shares done, from lines such as `    (12.50/100%)` that qemu-img ends by carriage returns."""
    text = b""
    while piece := os.read(output.fileno(), 4096):
        text = (text + piece)[-64:]
        found = text.rpartition(b"/100%)")[0].rpartition(b"(")[2]
        try:
            yield float(found) / 100
        except ValueError:
            continue


def _short(folder: Path) -> str:
    """The folder if a socket's name below it stays within 108 bytes (unix(7)), else one with a short name."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return str(folder) if len(os.fsencode(folder)) < _LONGEST else "/tmp"  # noqa: S108 - a private folder in it
