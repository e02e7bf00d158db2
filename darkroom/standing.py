"""Whether an image should be used: deprecated images should not, for anything new; deactivated ones cannot."""

from collections.abc import Sequence
from datetime import UTC, datetime

from darkroom import batch, changing
from darkroom.catalog import Connection, Row, images
from darkroom.errors import RefusedError
from darkroom.systems import Systems


class ReplacedByItselfError(RefusedError):
    """An image that is named as its own successor."""

    code = "replaced-by-itself"
    what = "an image cannot be replaced by itself"
    default_remedy = "name another image"


def deprecate(to: Systems, references: Sequence[str], replaced_by: str = "") -> list[batch.Result]:
    """Mark each image as deprecated, and what to use instead: an image, as it is now if a family names it.

    Its data stays usable; its family means the next image. An image that is deprecated already keeps the time of that.
    Raises ImageMissingError where there is no such successor; refused with StatusError, ReplacedByItselfError.
    """
    successor = images.find(to.catalog, replaced_by)["id"] if replaced_by else None

    def decide(_: Connection, row: Row) -> changing.Change:
        changing.require_status(row, "active", "deactivated")
        if row["id"] == successor:
            raise ReplacedByItselfError(str(row["id"]))
        columns = {
            "deprecated_at": row["deprecated_at"] or datetime.now(UTC),
            "replaced_by": successor or row["replaced_by"],
        }
        changed = {name: value for name, value in columns.items() if value != row[name]}
        return changing.Change(changed, f"replaced by {successor}" if successor else "")

    return changing.each(to, references, "deprecate", decide)


def undeprecate(to: Systems, references: Sequence[str]) -> list[batch.Result]:
    """Take the mark of deprecation away from each image."""

    def decide(_: Connection, row: Row) -> changing.Change:
        columns = {"deprecated_at": None, "replaced_by": None}
        return changing.Change({name: None for name in columns if row[name] is not None})

    return changing.each(to, references, "undeprecate", decide)


def deactivate(to: Systems, references: Sequence[str]) -> list[batch.Result]:
    """Make each active image unusable, to members too, until it is activated; what reads its data already goes on."""
    return _switch(to, references, "deactivate", "active", "deactivated")


def activate(to: Systems, references: Sequence[str]) -> list[batch.Result]:
    """Make each deactivated image usable again."""
    return _switch(to, references, "activate", "deactivated", "active")


def _switch(to: Systems, references: Sequence[str], operation: str, old: str, new: str) -> list[batch.Result]:
    def decide(_: Connection, row: Row) -> changing.Change:
        changing.require_status(row, old, new)
        return changing.Change({"status": new} if row["status"] != new else {})

    return changing.each(to, references, operation, decide)
