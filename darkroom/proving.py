"""Boot proof: an image boots in a throw-away guest, and what it showed is kept with it.

It has booted when its serial port shows a login prompt (or a text that was given), its guest agent answers, or its
screen has settled while an operating system drives its devices.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from uuid import UUID, uuid4

from darkroom import crypto, reading, screen, systems
from darkroom.catalog import Row, images
from darkroom.compute import connection, guard, hosts, profiles, throwaway
from darkroom.compute.throwaway import Export, Guest, Shape
from darkroom.errors import RefusedError
from darkroom.model import GiB
from darkroom.nbd.server import NbdServer
from darkroom.systems import Systems

Progress = Callable[[int, int], None]
LONGEST = 3600
_PROMPT = b"login:"
_BY_AGENT = "the guest agent answers"
_POLL = 0.25
_LOOK = 2.0
_MOMENT = 15.0
_MEMORY = 512
_MOST_MEMORY = 4096
_WRITES = 4 * GiB
_LINES = 5
_SERIAL, _SCREENSHOT = 0, 1


class BootProofError(RefusedError):
    """The image did not boot."""

    code = "boot-unproved"
    what = "the image did not boot"
    default_remedy = "see what it showed with `darkroom proof IMAGE`"


class NothingToBootError(RefusedError):
    """A data image has no system."""

    code = "nothing-to-boot"
    what = "a data image does not boot"


class ProofMissingError(RefusedError):
    """Nobody has tried to boot the image."""

    code = "no-proof"
    what = "there is no boot proof of this image"
    default_remedy = "make one with `darkroom boot-test IMAGE`"
    exit_code = 4


@dataclasses.dataclass(frozen=True, slots=True)
class ProofRequest:
    """How to prove: on which host ("" for the only one), within how many seconds.

    `text` is what must appear on the serial port; "" leaves it to a login prompt, the guest agent or the screen.
    """

    host: str = ""
    text: str = ""
    seconds: int = 600


@dataclasses.dataclass(frozen=True, slots=True)
class Proof:
    """What came of it: `how` is empty if it did not boot, `reason` says why then."""

    how: str
    reason: str
    seconds: float
    serial: bytes = dataclasses.field(repr=False)
    screenshot: bytes = dataclasses.field(repr=False)


def prove(to: Systems, image: str, request: ProofRequest, progress: Progress) -> dict[str, Any]:
    """Boot the image, record what it showed, and return that as small JSON; raises BootProofError if it did not boot.

    The image may be one that is not active yet. Raises NotOwnerError, HostMissingError, NothingToBootError, and
    DamagedError where the store's bytes are not what was written.
    """
    row = images.get(to.catalog, image)
    images.require_own(row)  # the proof is written on the image
    if row["type"] == "data":
        raise NothingToBootError(row["name"])
    host = hosts.find(to.catalog, request.host)
    recorders: list[profiles.Recorder] = []
    with _guest(to, row, host, recorders) as guest:
        proof = _watched(guest, request, progress)
    _record(to, row, proof, [recorder.chunks for recorder in recorders])
    if not proof.how:
        lines = proof.serial.decode(errors="replace").split("\n")
        # Of an encrypted image no word goes where it is not sealed, such as into an error.
        said = "" if row["key_name"] else " / ".join(line.strip() for line in lines if line.strip())[-400:]
        raise BootProofError(row["name"], "", f"{proof.reason}; last on its serial port: {said or '(not shown)'}")
    return shown(to, row["id"])


@contextmanager
def _guest(to: Systems, row: Row, host: hosts.Host, recorders: list[profiles.Recorder]) -> Iterator[Guest]:
    """The image's disks behind exports of our own, in a guest; raises what reading them raised."""
    host.prepare()
    uuid = uuid4()
    folder = host.run / f"proof-{uuid.hex[:16]}"
    with connection.open(host.uri) as libvirt, ExitStack() as stack:
        guard.sweep(libvirt, host.run)
        folder.mkdir(mode=0o711)
        stack.callback(throwaway.tidy, libvirt, uuid, folder)
        throwaway.own(libvirt, folder)
        exports, serving = [], []
        for disk in images.disks(to.catalog, row["id"]):
            reader = stack.enter_context(reading.open_disk(to, row, disk["number"]))
            recorders.append(profiles.Recorder(reader))
            server = stack.enter_context(NbdServer(recorders[-1], folder / f"{disk['number']}.nbd"))
            throwaway.own(libvirt, server.path)
            serving.append(server)
            exports.append(Export(server.path, disk["virtual_size"], row["type"] == "iso"))
        key = crypto.random_key() if row["key_name"] else b""
        shape = _shape(row, images.disks(to.catalog, row["id"])[0])
        with throwaway.running(host, uuid, exports, shape, folder, _WRITES, key) as guest:
            yield guest
            for server in serving:
                for error in server.errors:
                    raise error


def _shape(row: Row, disk: Row) -> Shape:
    properties = row["properties"]
    memory = min(max(properties.get("min_ram") or 0, _MEMORY), _MOST_MEMORY)
    mode = properties.get("boot_mode") or ("uefi" if disk["partitions"].get("esp") else "bios")
    return Shape(memory, mode == "uefi")


def _watched(guest: Guest, request: ProofRequest, progress: Progress) -> Proof:
    """Watch the guest until it has booted, has ended, or the time is over."""
    started = time.monotonic()
    picture, looked, seen = b"", 0.0, screen.Screen()
    how = reason = ""
    while not how and not reason:
        passed = time.monotonic() - started
        progress(int(passed), request.seconds)
        runs = guest.is_running()  # before the port is read, so that nothing of its last words is missed
        try:
            guest.wait(_POLL)
        except throwaway.OverfullError as error:
            reason = str(error)
            break
        if passed - looked >= _LOOK:
            looked, picture = passed, guest.screenshot() or picture
            how = _by_other_signs(guest, request, picture, seen, passed)
        how = how or _by_serial(guest.serial, request)
        if not how and not runs:
            reason = f"the guest ended after {passed:.0f} s"
        elif not how and passed > request.seconds:
            reason = f"the guest showed nothing of it within {request.seconds} s"
    took = time.monotonic() - started
    if how == _BY_AGENT:
        _linger(guest, request)
    picture = guest.screenshot() or picture
    return Proof(how, reason, took, guest.serial, screen.compact(picture) if picture else b"")


def _linger(guest: Guest, request: ProofRequest) -> None:
    """Give a guest whose agent is faster than its login a moment, for the picture."""
    deadline = time.monotonic() + _MOMENT
    with suppress(throwaway.OverfullError):
        while time.monotonic() < deadline and not _by_serial(guest.serial, request):
            guest.wait(_POLL)
        guest.wait(_LOOK)


def _by_serial(serial: bytes, request: ProofRequest) -> str:
    if request.text:
        return "text on the serial port" if request.text.encode() in serial else ""
    last = serial.rstrip().rpartition(b"\n")[2]
    return "login prompt on the serial port" if last.rstrip().endswith(_PROMPT) else ""


def _by_other_signs(guest: Guest, request: ProofRequest, picture: bytes, seen: screen.Screen, now: float) -> str:
    if request.text:
        return ""
    if guest.has_agent():
        return _BY_AGENT
    if picture and seen.show(picture, now) and guest.has_drivers():
        return "the screen has settled"
    return ""


def _record(to: Systems, row: Row, proof: Proof, read: list[list[int]]) -> None:
    key = systems.data_key(to, row)
    seen = [proof.serial, proof.screenshot]
    if row["key_name"]:
        seen = [crypto.seal_proof(key, row["id"], kind, data) for kind, data in enumerate(seen)]
    with to.catalog.transaction() as transaction:
        transaction.execute(
            """INSERT INTO proofs (image_id, how, reason, seconds, serial, screenshot) VALUES (%s, %s, %s, %s, %s, %s)
            ON CONFLICT (image_id) DO UPDATE SET at = now(), how = excluded.how, reason = excluded.reason,
                seconds = excluded.seconds, serial = excluded.serial, screenshot = excluded.screenshot""",
            (row["id"], proof.how, proof.reason, proof.seconds, *seen),
        )
        if proof.how:
            transaction.execute("UPDATE images SET boot_verified_at = now() WHERE id = %s", (row["id"],))
            for number, chunks in enumerate(read):
                profiles.record(transaction, row["id"], number, chunks)
        outcome = "done" if proof.how else "failed"
        images.record_event(transaction, "boot-test", row["id"], outcome, proof.how or proof.reason)


def shown(to: Systems, image: UUID) -> dict[str, Any]:
    """The last proof of an image without what it showed; raises ProofMissingError."""
    row = _row(to, image)
    return {
        "image": str(image),
        "booted": bool(row["how"]),
        "how": row["how"] or row["reason"],
        "seconds": round(row["seconds"], 1),
        "at": row["at"].isoformat(),
    }


def seen(to: Systems, image: Row) -> tuple[bytes, bytes]:
    """What the serial port and the screen showed: text, and a PNG; raises ProofMissingError, SealBrokenError."""
    row = _row(to, image["id"])
    if image["key_name"] is None:
        return row["serial"], row["screenshot"]
    key = systems.data_key(to, image)
    serial = crypto.open_proof(key, image["id"], _SERIAL, row["serial"])
    return serial, crypto.open_proof(key, image["id"], _SCREENSHOT, row["screenshot"])


def _row(to: Systems, image: UUID) -> Row:
    with to.catalog.transaction() as transaction:
        row = transaction.execute("SELECT * FROM proofs WHERE image_id = %s", (image,)).fetchone()
    if row is None:
        raise ProofMissingError(str(image))
    return row


def oldest(to: Systems, count: int) -> list[str]:
    """The active images that boot and were proved longest ago, or never, by their ids; none without a host."""
    query = """SELECT id FROM images WHERE status = 'active' AND type <> 'data' AND project_id = current_project()
        ORDER BY boot_verified_at NULLS FIRST, created_at LIMIT %s"""
    if not hosts.listed(to.catalog):
        return []
    with to.catalog.transaction() as transaction:
        return [str(row["id"]) for row in transaction.execute(query, (count,))]
