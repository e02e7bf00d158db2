"""Report: a project's images, or those of all, as a CSV file that spreadsheets open right; in constant memory.

UTF-8 with a byte order mark, without which a spreadsheet takes the bytes for another encoding; CRLF and quotes as in
RFC 4180; and a text that a spreadsheet would calculate begins with an apostrophe.

Only what people wrote needs quotes and that apostrophe. The other columns come from the database joined already: a cell
at a time, as `DataFrame.to_csv` goes, takes three times as long as the query itself.
"""

import itertools
import os
import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from psycopg import sql
from psycopg.rows import tuple_row

from darkroom import store
from darkroom.catalog import listing
from darkroom.catalog.listing import Filter
from darkroom.errors import MissingError, RefusedError
from darkroom.model import MiB
from darkroom.systems import Systems

if TYPE_CHECKING:
    import pandas

_CHUNK = 20_000
_PIECE = 8 * MiB
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a text begins with that a spreadsheet calculates."""
_BREAKING = '",\r\n'


class ColumnError(RefusedError):
    """A column that a report cannot have."""

    code = "column"
    what = "a report has no such column"
    exit_code = 2


class ReportFolderError(MissingError):
    """The folder of the report does not exist."""

    code = "folder-not-found"
    what = "the folder of the file to write does not exist"


class ReportNameError(RefusedError):
    """A report replaces what is there, which must never be something else, such as a file of keys."""

    code = "report-name"
    what = "the name of a report ends in .csv, since it replaces the file that is there"
    default_remedy = "choose a name that ends in .csv"


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its title, its SQL over an image `i`, and whether people wrote what is in it.

    What people did not write holds neither commas nor quotes nor line ends.
    """

    title: str
    sql: str
    people: bool = False


def _time(name: str) -> str:
    return f"to_char(i.{name} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS')"


def _property(name: str) -> str:
    return f"i.properties->>'{name}'"


# Only full images have several disks: asking for those of each image would take most of the time.
_CAPACITIES = """CASE WHEN i.type = 'full' THEN (SELECT string_agg(ceil(d.virtual_size / 1073741824.0)::text, '; '
    ORDER BY d.number) FROM disks d WHERE d.image_id = i.id) ELSE ceil(i.virtual_size / 1073741824.0)::text END"""
_TAGS = """(SELECT string_agg(t.key || '=' || t.value, ' ' ORDER BY t.key) FROM tags t WHERE t.image_id = i.id)"""

COLUMNS = {
    "name": Column("Image Name", "i.name", people=True),
    "id": Column("Image ID", "i.id::text"),
    "status": Column("Image Status", "i.status"),
    "os": Column("OS", f"coalesce(nullif({_property('os_version')}, ''), {_property('os_type')})", people=True),
    "type": Column("Image Type", "i.type"),
    "created_at": Column("Image Creation Time (UTC)", _time("created_at")),
    "disk_capacities": Column("Disk Capacities (GiB)", _CAPACITIES),
    "shared_disks": Column("Shared Disks", "0"),
    "size": Column("Image Size (bytes)", "i.stored_size"),
    "encryption": Column("Encryption", "CASE WHEN i.key_name IS NULL THEN 'no' ELSE 'yes' END"),
    "project": Column("Project", "(SELECT p.name FROM projects p WHERE p.id = i.project_id)", people=True),
    "description": Column("Description", "i.description", people=True),
    "tags": Column("Tags", _TAGS, people=True),
    "key": Column("Key", "i.key_name", people=True),
    "family": Column("Family", "i.family", people=True),
    "protected": Column("Protected", "CASE WHEN i.protected THEN 'yes' ELSE 'no' END"),
    "deprecated_at": Column("Deprecated (UTC)", _time("deprecated_at")),
    "replaced_by": Column("Replaced By", "i.replaced_by::text"),
    "version": Column("Version", "i.version"),
    "source": Column("Source", "i.source", people=True),
    "source_format": Column("Source Format", "i.source_format"),
    "virtual_size": Column("Virtual Size (bytes)", "i.virtual_size"),
    "allocated_size": Column("Allocated Size (bytes)", "i.allocated_size"),
    "new_size": Column("New Size (bytes)", "i.new_size"),
    "min_disk": Column("Minimum Disk (GiB)", _property("min_disk")),
    "min_ram": Column("Minimum Memory (MiB)", _property("min_ram")),
    "max_ram": Column("Maximum Memory (MiB)", _property("max_ram")),
    "boot_mode": Column("Boot Mode", _property("boot_mode")),
    "architecture": Column("Architecture", _property("architecture")),
    "content_digest": Column("Content Digest", "encode(i.content_digest, 'hex')"),
    "active_at": Column("Active (UTC)", _time("active_at")),
    "updated_at": Column("Changed (UTC)", _time("updated_at")),
    "checked_at": Column("Checked (UTC)", _time("checked_at")),
    "boot_verified_at": Column("Boot Verified (UTC)", _time("boot_verified_at")),
    "failure": Column("Failure", "i.failure->>'message'", people=True),
}
DEFAULT = tuple(COLUMNS)[:10]
"""The columns of the Image Management Service's list, in its order."""


def check_columns(columns: Sequence[str]) -> None:
    """Raise ColumnError unless a report can have these."""
    if unknown := [name for name in columns if name not in COLUMNS]:
        raise ColumnError(unknown[0], " ".join(COLUMNS), unknown[0])


def report(
    to: Systems, target: str, columns: Sequence[str], which: Filter, all_projects: bool = False
) -> dict[str, Any]:
    """Write the images to `target`, newest first; return its address and the number of images.

    `target` is a path or s3://bucket/key; empty: reports/images.csv in the home.
    What was at `target` is replaced when the new file is whole, and stays if there is none. `columns`: names of
    COLUMNS; none: DEFAULT, with the project where there are several. Raises ColumnError, ReportFolderError,
    ReportNameError, and what the store raises.
    """
    columns = columns or (*DEFAULT, *(["project"] if all_projects else []))
    check_columns(columns)
    path = _path(to, target)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "x", encoding="utf-8-sig", newline="") as file:
            file.write(",".join(COLUMNS[name].title for name in columns) + "\r\n")
            count = _write(file, _runs(columns), to, which, all_projects)
            file.flush()
            os.fsync(file.fileno())
        size = part.stat().st_size
        if target.startswith("s3://"):
            address, _, name = target.rpartition("/")
            store.open_store(address, to.settings).put(name, _pieces(part), size)
        else:
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return {"target": target if target.startswith("s3://") else str(path), "images": count, "size": size}


def _path(to: Systems, target: str) -> Path:
    """Where the file is written: its own folder, or, for what goes to a bucket, the one for passing files."""
    if not target:
        folder = to.settings.home / "reports"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder / "images.csv"
    if target.startswith("s3://"):
        to.settings.spool.mkdir(parents=True, exist_ok=True, mode=0o700)
        return to.settings.spool / "report"
    check_place(target)
    return Path(target).absolute()


def check_place(target: str) -> None:
    """Raise ReportFolderError, ReportNameError if a report cannot be written to this path; a bucket is not asked."""
    if target and not target.startswith("s3://"):
        path = Path(target).absolute()
        if not path.parent.is_dir():
            raise ReportFolderError(str(path.parent))
        if path.suffix.lower() != ".csv":
            raise ReportNameError(str(path))


def as_text(cell: str) -> str:
    """A cell as a spreadsheet shows it and does not calculate it: with an apostrophe before what would be a formula."""
    return "'" + cell if cell.startswith(_FORMULA) else cell


def _runs(columns: Sequence[str]) -> list[Column]:
    """The columns that are to be fetched: those that people wrote, and between them the others as one each."""
    runs = []
    for people, names in itertools.groupby(columns, lambda name: COLUMNS[name].people):
        cells = [f"coalesce(({COLUMNS[name].sql})::text, '')" for name in names]
        runs += [Column("", cell, people=True) for cell in cells] if people else [Column("", " || ',' || ".join(cells))]
    return runs


def _write(file: IO[str], runs: Sequence[Column], to: Systems, which: Filter, all_projects: bool) -> int:
    """Append the rows, one chunk while the next is fetched; returns their number."""
    import pandas  # noqa: PLC0415 - half a second that no other command should pay

    selected = sql.SQL(", ").join(sql.SQL(run.sql) for run in runs)
    query = listing.select(which, selected, all_projects=all_projects)
    count = 0
    with to.catalog.transaction() as connection, ThreadPoolExecutor(1, "report") as pool:
        connection.execute("SET LOCAL cursor_tuple_fraction = 1")  # all rows are wanted, not the first ones fast
        with connection.cursor(name="report", row_factory=tuple_row) as cursor:
            cursor.execute(query)
            ahead = pool.submit(cursor.fetchmany, _CHUNK)
            while rows := ahead.result():
                ahead = pool.submit(cursor.fetchmany, _CHUNK)
                frame = pandas.DataFrame(rows, dtype=object)
                cells = [_safe(frame[number]) if run.people else frame[number] for number, run in enumerate(runs)]
                file.write("\r\n".join(map(",".join, zip(*cells, strict=True))) + "\r\n")
                count += len(rows)
    return count


def _safe(cells: "pandas.Series[str]") -> "pandas.Series[str]":
    """The cells with an apostrophe before what would be calculated, and quotes around what a comma would break.

    Most chunks hold neither: one search through all of their text tells.
    """
    text = "\0".join(["", *cells])
    if any(f"\0{sign}" in text for sign in _FORMULA):
        cells = cells.mask(cells.str.startswith(_FORMULA), "'" + cells)
    if any(sign in text for sign in _BREAKING):
        quoted = '"' + cells.str.replace('"', '""', regex=False) + '"'
        cells = cells.mask(cells.str.contains(f"[{_BREAKING}]"), quoted)
    return cells


def _pieces(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            yield piece
