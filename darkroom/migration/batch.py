"""The beginning of a batch: its table is read and checked as a whole, then planned or registered."""

import dataclasses
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from darkroom import importing, keys, sources
from darkroom.catalog import Row, batches
from darkroom.errors import DarkroomError, MissingError, RefusedError
from darkroom.importing import ImportRequest
from darkroom.migration import report as reports
from darkroom.migration import table
from darkroom.systems import Systems

_LOOKING = 8


class TableSizeError(RefusedError):
    """A table too large to be one."""

    code = "table-size"
    what = "the table is too large"


def read_table(to: Systems, url: str, report: str) -> dict[int, ImportRequest]:
    """The imports that the table at `url` asks for, checked as a whole: their keys and the place of the report, too.

    Raises TableInvalidError, TableSizeError, what opening the file raises, and what `report.check` raises. Opens no
    source.
    """
    reports.check(report, url)
    to.settings.spool.mkdir(parents=True, exist_ok=True, mode=0o700)
    with sources.open_address(url, to.settings, to.settings.spool) as file:
        if file.reader.size > table.MAX_SIZE:
            raise TableSizeError(file.name, f"at most {table.MAX_SIZE} bytes", f"{file.reader.size}")
        content = file.reader.read(0, file.reader.size)
        name = file.name
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise table.TableInvalidError(name, "UTF-8", str(error)) from None
    requests = table.parse(text, name, _folder(url))
    table.refuse(name, _key_findings(to, requests))
    return requests


def _folder(url: str) -> str:
    """The folder of the table at `url`: a path, or an address without what is behind its last slash."""
    if path := sources.path_of(url):
        return os.path.dirname(os.path.abspath(path))
    if not url.startswith("s3://"):  # whose keys may hold what is a query in other addresses
        parts = urlsplit(url)
        url = parts._replace(path=parts.path or "/", query="", fragment="").geturl()
    return url.rpartition("/")[0]


def plan(to: Systems, requests: dict[int, ImportRequest], report: str) -> dict[str, Any]:
    """What would become of these imports, as far as can be told without reading sources; writes it as a report.

    A row is `done` if its image is there, `failed` if its source or its name cannot be had, else `ready`.
    """
    with ThreadPoolExecutor(_LOOKING, "plan") as pool:
        rows = list(pool.map(lambda item: _foreseen(to, *item), requests.items()))
    reports.write(to, report, rows)
    statuses = [row["status"] for row in rows]
    return {"rows": len(rows), **{name: statuses.count(name) for name in ("ready", "done")}, **reports.failures(rows)}


def register(to: Systems, url: str, report: str, *, run: str = "", retry_failed: bool = False) -> str:
    """Make the batch of the table at `url`, or find it; return its id. Raises what `read_table` raises.

    `run` names who leads it from now on.
    """
    requests = read_table(to, url, report)
    rows = {number: dataclasses.asdict(request) for number, request in requests.items()}
    digest = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).digest()
    with to.catalog.transaction() as connection:
        batch = batches.create(connection, {"source": url, "digest": digest, "report": report, "run": run}, rows)
        if retry_failed:
            batches.retry_failed(connection, batch)
    return str(batch)


def _foreseen(to: Systems, number: int, request: ImportRequest) -> Row:
    """A row of the report of a plan."""
    row: Row = {"number": number, "request": {"name": request.name}, "status": "ready"}
    row |= dict.fromkeys(("image_id", "code", "reason", "virtual_size", "new_size", "seconds"))
    try:
        if found := importing.existing(to, request):
            sizes = {name: found[name] for name in ("virtual_size", "new_size")}
            row |= {"status": "done", "image_id": found["id"], **sizes}
    except DarkroomError as error:
        row |= {"status": "failed", "code": error.code, "reason": str(error)}
    return row


def _key_findings(to: Systems, requests: dict[int, ImportRequest]) -> list[str]:
    """A row for each key that is missing, or may not be used."""
    findings, known = [], dict[str, str]()
    for number, request in requests.items():
        if request.key and request.key not in known:
            try:
                keys.require_usable(to.keys, request.key)
                known[request.key] = ""
            except (MissingError, RefusedError) as error:
                known[request.key] = str(error)
        if request.key and known[request.key]:
            findings.append(f"row {number}, column key: {known[request.key]}")
    return findings
