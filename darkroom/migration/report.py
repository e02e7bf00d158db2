"""The report of a migration: a CSV file with a line for each row, replaced as a whole each time."""

import csv
import io
import os
import secrets
from pathlib import Path
from typing import Any

from darkroom import reporting, sources, store
from darkroom.catalog import Row, batches
from darkroom.errors import RefusedError
from darkroom.systems import Systems

COLUMNS = ("row", "name", "image", "status", "code", "reason", "bytes", "new_bytes", "seconds")


class ReportTableError(RefusedError):
    """A report that would take the place of the table that it is about."""

    code = "report-is-table"
    what = "the report would replace the table"
    default_remedy = "choose another name for the report"


def check(target: str, table: str) -> None:
    """Raise ReportTableError if a report at `target` would replace the table, by whatever name each goes.

    And what `reporting.check_place` raises.
    """
    reporting.check_place(target)
    if target.startswith("s3://"):
        same = _object(target) == _object(table)
    else:
        path = sources.path_of(table)
        same = os.path.exists(target) and os.path.exists(path) and os.path.samefile(target, path)
    if same:
        raise ReportTableError(target)


def _object(address: str) -> list[str]:
    """Bucket and names of the key of an s3:// address; names that are empty do not count, as where it is written."""
    return list(filter(None, address.split("/")))


def write(to: Systems, target: str, rows: list[Row]) -> None:
    """Write the report of these rows to a path or s3://bucket/key, in place of an older one; "" means nowhere."""
    if not target:
        return
    reporting.check_place(target)
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(COLUMNS)
    for row in rows:
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.2f}"
        reason = reporting.as_text(row["reason"] or "")
        outcome = (row["image_id"], row["status"], row["code"], reason, row["virtual_size"], row["new_size"])
        lines.writerow((row["number"], reporting.as_text(row["request"]["name"]), *outcome, seconds))
    body = text.getvalue().encode()
    if target.startswith("s3://"):
        address, _, name = target.rpartition("/")
        store.open_store(address, to.settings).put(name, [body], len(body))
        return
    part = Path(f"{target}.{secrets.token_hex(4)}.part")
    try:
        part.write_bytes(body)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def finish(to: Systems, batch: str) -> dict[str, Any]:
    """Write the report, and return what there is to tell of a batch, as small JSON."""
    row = batches.get(to.catalog, batch)
    rows = batches.rows(to.catalog, batch)
    write(to, row["report"], rows)
    statuses = [found["status"] for found in rows]
    return {
        "batch": batch,
        "rows": len(rows),
        "done": statuses.count("done"),
        "left": statuses.count("queued") + statuses.count("running"),
        **failures(rows),
        "virtual_size": sum(found["virtual_size"] or 0 for found in rows),
        "new_size": sum(found["new_size"] or 0 for found in rows),
        "report": row["report"],
    }


def failures(rows: list[Row]) -> dict[str, Any]:
    """How many rows failed, and how many of them for each code."""
    codes = [row["code"] for row in rows if row["status"] == "failed"]
    return {"failed": len(codes), "failures": {code: codes.count(code) for code in sorted(set(codes))}}
