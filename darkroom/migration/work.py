"""The work of a migration: rows are claimed, imported, and ticked off, by several threads of several processes."""

import contextlib
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from typing import Any
from uuid import UUID

from darkroom import creation, importing
from darkroom.catalog import CatalogUnavailableError, Row, batches, uploads
from darkroom.catalog.batches import Outcome
from darkroom.catalog.uploads import LeaseHeldError, LeaseLostError
from darkroom.errors import ConflictError, DarkroomError
from darkroom.importing import ImportRequest
from darkroom.migration import report
from darkroom.systems import Systems

Progress = Callable[[int, int], None]
Done = Callable[[Outcome, str], None]
_HEARTBEAT = 15.0
_POLL = 0.5
_REPORT = 5.0


def work(to: Systems, batch: str, concurrency: int, progress: Progress, done: Done, *, lead: bool) -> dict[str, Any]:
    """Import rows, `concurrency` at once, until none is left in any process, or the batch is stopped.

    `done` is told the outcome and the status of each row, from the thread that did it. The leading process writes
    the report as it goes; each writes it at the end. Raises CatalogUnavailableError; then the call can be repeated.
    """
    over = threading.Event()
    errors: list[BaseException] = []

    def run(loop: Callable[[], None]) -> None:
        try:
            loop()
        except BaseException as error:
            errors.append(error)
            over.set()

    loops = [lambda: _import_rows(to, batch, over, done)] * concurrency
    # Daemons: a process that is told to end does not wait for its imports, which another one goes on with.
    # Each in a copy of this context, which says to those who listen whose work it is.
    threads = [
        threading.Thread(target=copy_context().run, args=(run, loop), name="import", daemon=True) for loop in loops
    ]
    heart = threading.Thread(target=_beat, args=(to, batch, over), name="rows", daemon=True)
    for thread in (heart, *threads):
        thread.start()
    try:
        _watch(to, batch, threads, progress, lead=lead)
    finally:
        over.set()
        if any(thread.is_alive() for thread in threads):
            with contextlib.suppress(CatalogUnavailableError):
                batches.give_back(to.catalog, batch)
    if errors:
        raise errors[0]
    return report.finish(to, batch)


def import_row(to: Systems, row: Row) -> Outcome:
    """Import one row, and say what became of it; never raises for what its source or its request is to blame for."""
    began = time.monotonic()
    request = ImportRequest(**row["request"])
    try:
        found = _import(to, request)
    except CatalogUnavailableError:
        raise
    except DarkroomError as error:
        again = error.retryable or isinstance(error, LeaseHeldError | LeaseLostError)
        return Outcome(row["number"], time.monotonic() - began, code=error.code, reason=str(error), again=again)
    except Exception as error:
        reason = f"unexpected: {type(error).__name__}: {error}"
        return Outcome(row["number"], time.monotonic() - began, code="unexpected", reason=reason, again=True)
    sizes = {name: found[name] for name in ("virtual_size", "new_size")}
    return Outcome(row["number"], time.monotonic() - began, found["image"], **sizes)


def _import(to: Systems, request: ImportRequest) -> dict[str, Any]:
    """The steps of `flows.import_image`, in its order, without a task each: they take longer than a tiny image."""
    found = importing.register(to, request)
    image = found["image"]
    if found["status"] != "active":
        try:
            with uploads.lease(to.catalog, UUID(image)):
                importing.take_in(to, image)
                if not request.quick:
                    creation.read_back(to, image, _quiet)
                creation.activate(to, image)
        except DarkroomError as error:
            if not error.retryable and not isinstance(error, ConflictError):
                creation.fail(to, image, error)
            raise
    return creation.describe(to, image)


def _import_rows(to: Systems, batch: str, over: threading.Event, done: Done) -> None:
    """One of the threads that import: row after row, until none is left or `over` is set."""
    while not over.is_set():
        row = batches.claim(to.catalog, batch)
        if row is not None:
            outcome = import_row(to, row)
            done(outcome, batches.finish(to.catalog, batch, outcome))
            continue
        found = batches.counts(to.catalog, batch)
        if batches.is_stopped(to.catalog, batch) or not found["queued"] + found["running"]:
            return
        batches.expire_dead(to.catalog, batch)  # some wait for their next attempt, or are another process's
        over.wait(_POLL)


def _watch(to: Systems, batch: str, threads: list[threading.Thread], progress: Progress, *, lead: bool) -> None:
    """Show how far the batch is until the threads end, and write the report as it goes."""
    reported = time.monotonic()
    while any(thread.is_alive() for thread in threads):
        for thread in threads:
            thread.join(_POLL / len(threads))
        with contextlib.suppress(CatalogUnavailableError):
            found = batches.counts(to.catalog, batch)
            progress(found["done"] + found["failed"], sum(found.values()))
            if lead and time.monotonic() - reported >= _REPORT:
                report.write(to, batches.get(to.catalog, batch)["report"], batches.rows(to.catalog, batch))
                reported = time.monotonic()


def _beat(to: Systems, batch: str, over: threading.Event) -> None:
    while not over.wait(_HEARTBEAT):
        with contextlib.suppress(CatalogUnavailableError):  # leases outlive a short absence of the catalog
            batches.renew(to.catalog, batch)


def _quiet(done: int, total: int) -> None:
    pass
