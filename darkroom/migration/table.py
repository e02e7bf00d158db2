"""The table of a batch migration: a CSV file whose columns are the fields of an import, read and checked as a whole.

Nothing is opened that the table names: whether a source can be imported is told by its import.
"""

import csv
import dataclasses
import io
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints
from urllib.parse import quote

from darkroom import rules, sources
from darkroom.errors import DarkroomError, RefusedError
from darkroom.importing import ImportRequest

MAX_ROWS = 100_000
MAX_SIZE = 64 * 1024 * 1024
_TAG = "tag:"
_SHOWN = 200
_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_HINTS = {name: hint for name, hint in get_type_hints(ImportRequest).items() if name != "tags"}
_REQUIRED = [
    field.name
    for field in dataclasses.fields(ImportRequest)
    if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
]
_FORMATS = ("", *sources.FORMATS)


class TableInvalidError(RefusedError):
    """A table that breaks rules; `found` has a line for each, which names row and column."""

    code = "table-invalid"
    what = "the table cannot be migrated, and nothing was begun"
    default_remedy = "correct these cells, and run it again"


class CellError(RefusedError):
    """A text that is not of the kind that its column takes."""

    code = "cell-invalid"
    what = "the column does not take this"
    default_remedy = ""


def parse(text: str, which: str, folder: str) -> dict[int, ImportRequest]:
    """The imports that a CSV text asks for, by row as a spreadsheet counts them; raises TableInvalidError.

    The error has all that is wrong. `which` names the table in errors; a path in it is relative to `folder`, the path
    or the address that the table was read from: one that came from elsewhere names nothing of this machine. Columns are
    the fields of ImportRequest and `tag:KEY`; an empty cell stands for the default. Fields are separated by commas or
    by semicolons.
    """
    lines = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), delimiter=_delimiter(text), strict=True)
    findings: list[str] = []
    requests: dict[int, ImportRequest] = {}
    named: dict[str, int] = {}
    try:
        header = [name.strip() for name in next(lines, [])]
        findings += _header_findings(header)
        for number, cells in enumerate(lines if not findings else [], start=2):
            if len(requests) >= MAX_ROWS:
                findings.append(f"row {number}: a table has at most {MAX_ROWS} rows")
                break
            if any(cell.strip() for cell in cells):
                request, wrong = _row(header, cells, folder)
                findings += [f"row {number}, {where}: {what}" for where, what in wrong]
                if request:
                    requests[number] = request
                    if named.setdefault(request.name, number) != number:
                        findings.append(
                            f"row {number}, column name: row {named[request.name]} has {request.name!r} too"
                        )
    except csv.Error as error:
        findings.append(f"line {lines.line_num}: {error}")
    if not findings and not requests:
        findings.append("row 2: there are no rows")
    if findings:
        raise _invalid(which, findings)
    return requests


def refuse(which: str, findings: list[str]) -> None:
    """Raise TableInvalidError if there are findings."""
    if findings:
        raise _invalid(which, findings)


def _invalid(which: str, findings: list[str]) -> TableInvalidError:
    more = [f"and {len(findings) - _SHOWN} more"] if len(findings) > _SHOWN else []
    return TableInvalidError(which, "", "\n".join(findings[:_SHOWN] + more))


def _delimiter(text: str) -> str:
    header = text.partition("\n")[0]
    return ";" if ";" in header and "," not in header else ","


def _header_findings(header: list[str]) -> Iterator[str]:
    for column in sorted({name for name in header if header.count(name) > 1}):
        yield f"row 1, column {column}: it is there more than once"
    for column in _REQUIRED:
        if column not in header:
            yield f"row 1, column {column}: it is missing"
    for column in dict.fromkeys(header):
        if column not in _HINTS and not column.startswith(_TAG):
            known = ", ".join(_HINTS)
            yield f"row 1, column {column or '(without a name)'}: there is no such column; use {known}, tag:KEY"


def _row(header: list[str], cells: list[str], folder: str) -> tuple[ImportRequest | None, list[tuple[str, str]]]:
    """The import that a row asks for, or the columns that are wrong, and why."""
    if len(cells) > len(header):
        return None, [("behind the last column", f"{len(cells)} cells in {len(header)} columns")]
    texts = {column: cell.strip() for column, cell in zip(header, cells, strict=False) if cell.strip()}
    fields: dict[str, Any] = {"tags": {key[len(_TAG) :]: texts.pop(key) for key in list(texts) if key.startswith(_TAG)}}
    wrong = [(f"column {column}", "it is empty") for column in _REQUIRED if column not in texts]
    for column, text in texts.items():
        try:
            fields[column] = _value(column, text)
        except DarkroomError as error:
            wrong.append((f"column {column}", str(error)))
    if not wrong:
        wrong += [(f"column {column}", str(error)) for column, error in _broken(fields)]
    if not wrong:
        try:
            fields["source"] = _placed(fields["source"], folder)
        except CellError as error:
            wrong = [("column source", str(error))]
    return (None, wrong) if wrong else (ImportRequest(**fields), [])


def _placed(source: str, folder: str) -> str:
    """The address of a source that a table in `folder` names; raises CellError."""
    is_url = "://" in source
    if "://" not in folder:
        return source if is_url else os.path.join(folder, source)
    if os.path.isabs(source) or (is_url and sources.is_local(source)):
        # Whoever wrote the table shall not choose what is read of this machine.
        expected = "an address, or a path relative to the table"
        raise CellError(repr(source), expected, "a place on this machine, and the table is from elsewhere")
    return source if is_url else _beside(folder, source)


def _beside(folder: str, path: str) -> str:
    """The address that a relative path leads to from that of a folder; it stays within the bucket or the host."""
    parts = folder.split("/")
    for name in path.split("/"):
        if name == "..":
            del parts[max(3, len(parts) - 1) :]
        elif name not in ("", "."):
            # A path is the name of a file, wherever the folder is: in an address of the web some of it is quoted.
            parts.append(name if folder.startswith("s3://") else quote(name))
    return "/".join(parts)


def _value(column: str, text: str) -> Any:
    """The value that a cell's text stands for; raises CellError, and what the rule of the column raises."""
    hint = _HINTS[column]
    if hint is bool:
        if text.lower() not in _WORDS:
            raise CellError(repr(text), " or ".join(_WORDS), "another word")
        return _WORDS[text.lower()]
    if hint is int:
        if not text.isascii() or not text.isdigit():
            raise CellError(repr(text), "a whole number", "another text")
        return int(text)
    choices = _FORMATS if column == "format" else get_args(hint) if get_origin(hint) is Literal else ()
    if choices and text not in choices:
        raise CellError(repr(text), " or ".join(filter(None, choices)), "another word")
    return text


def _broken(fields: Mapping[str, Any]) -> Iterator[tuple[str, DarkroomError]]:
    """The rules that a row breaks, with the column of each."""
    request = ImportRequest(**fields)
    checks: dict[str, Callable[[], None]] = {
        "source": lambda: sources.check_url(request.source),
        "name": lambda: rules.check_name(request.name),
        "description": lambda: rules.check_description(request.description),
        "min_ram or max_ram": lambda: rules.check_memory(request.min_ram, request.max_ram),
        "min_disk": lambda: rules.check_min_disk(request.min_disk, request.type),
        "tag:…": lambda: rules.check_tags(request.tags),
        "digest": lambda: sources.check_digest(request.digest),
    }
    found = []
    for column, check in checks.items():
        try:
            check()
        except DarkroomError as error:
            found.append((column, error))
    yield from found
    if not found:
        try:
            request.check()  # the rules that have come since this list was made
        except DarkroomError as error:
            yield "of this row", error
