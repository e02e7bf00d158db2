"""Modify: what people wrote on an image and what servers are to be made of it by, as one change or not at all.

The rules see the image as it will be, under the lock of its row: two changes that are fine alone cannot break a rule
together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from darkroom import batch, changing, rules
from darkroom.catalog import Connection, Row
from darkroom.errors import ConflictError
from darkroom.systems import Systems

_EMPTY = {"name": "", "description": "", "protected": False, "family": None}
"""The columns that can be changed, and what they are when taken away."""


class VersionConflictError(ConflictError):
    """Somebody else has changed the image since it was looked at."""

    code = "version-conflict"
    what = "the image has been changed meanwhile"
    default_remedy = "look at it again with `darkroom show IMAGE`, and give the version that it shows"


@dataclass(frozen=True, slots=True)
class Changes:
    """What to change.

    `values`: by name, of name, description, protected, family and rules.SETTINGS; None takes one away. `set` and
    `unset`: properties of people's own. `version`: the one that the image must have; 0: whichever it has.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    set: Mapping[str, str] = field(default_factory=dict)
    unset: Sequence[str] = ()
    version: int = 0


def modify(to: Systems, references: Sequence[str], changes: Changes) -> list[batch.Result]:
    """Change each image, with a result for each.

    Refused with StatusError unless active, VersionConflictError, NameTakenError, and each RefusedError of `rules`; then
    nothing of that image has changed. One that is as it should be is left alone, whatever its version: twice is once.
    """

    def decide(connection: Connection, row: Row) -> changing.Change:
        changing.require_status(row, "active")
        columns = _changed(connection, row, changes)
        if columns and changes.version not in (0, row["version"]):
            raise VersionConflictError(str(row["id"]), f"version {changes.version}", f"version {row['version']}")
        return changing.Change(columns, ", ".join(_names(row, columns)))

    return changing.each(to, references, "modify", decide)


def _changed(connection: Connection, row: Row, changes: Changes) -> dict[str, Any]:
    """The columns that change, checked as the image will be."""
    values = dict(changes.values)
    columns = {name: values.pop(name) for name in _EMPTY if name in values}
    columns = {name: _EMPTY[name] if value is None else value for name, value in columns.items()}
    properties = {**row["properties"], **values}
    custom = {**properties.get("custom", {}), **changes.set}
    properties["custom"] = {name: value for name, value in custom.items() if name not in changes.unset} or None
    columns["properties"] = {name: value for name, value in properties.items() if value is not None}
    columns = {name: value for name, value in columns.items() if value != row[name]}
    _check({**row, **columns}, columns, _disk_size(connection, row))
    return columns


def _check(row: Row, columns: Mapping[str, Any], disk_size: int) -> None:
    """The rules for what changes: an image that was made under other limits can still be renamed."""
    if "name" in columns:
        rules.check_name(row["name"])
    if "description" in columns:
        rules.check_description(row["description"])
    if row["family"] and "family" in columns:
        rules.check_family(row["family"])
    if "properties" in columns:
        rules.check_settings(row["type"], disk_size, row["properties"])


def _disk_size(connection: Connection, row: Row) -> int:
    """The bytes of the disk that a server would boot from."""
    query = "SELECT virtual_size FROM disks WHERE image_id = %s AND number = 0"
    disk = connection.execute(query, (row["id"],)).fetchone()
    return disk["virtual_size"] if disk else 0


def _names(row: Row, columns: Mapping[str, Any]) -> list[str]:
    """The names of what changes, for the audit log."""
    old, new = row["properties"], columns.get("properties", row["properties"])
    properties = sorted(name for name in {*new, *old} if new.get(name) != old.get(name))
    return [name for name in columns if name != "properties"] + properties
