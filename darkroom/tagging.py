"""Tags: keys and values by which people find images. The owner of an image writes them, whoever sees it reads them."""

from collections.abc import Mapping, Sequence

from darkroom import batch, changing, rules
from darkroom.catalog import Connection, Row
from darkroom.systems import Systems


def tag(to: Systems, references: Sequence[str], tags: Mapping[str, str], remove: Sequence[str]) -> list[batch.Result]:
    """Give each image `tags`, and take away those whose key is in `remove`; a result for each.

    A tag of the same key gets the new value; one to take away that is not there is gone already. Refused with TagError,
    and StatusError for an image that is not finished or gone; then it keeps the tags that it had.
    """

    def decide(connection: Connection, row: Row) -> changing.Change:
        changing.require_status(row, "active", "deactivated")
        query = "SELECT key, value FROM tags WHERE image_id = %s"
        old = {found["key"]: found["value"] for found in connection.execute(query, (row["id"],))}
        new = {key: value for key, value in {**old, **tags}.items() if key not in remove}
        if new == old:
            return changing.Change()
        rules.check_tags(new)
        _write(connection, row, old, new)
        named = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
        return changing.Change({"version": row["version"] + 1}, ", ".join(named))

    return changing.each(to, references, "tag", decide)


def _write(connection: Connection, row: Row, old: Mapping[str, str], new: Mapping[str, str]) -> None:
    """Replace the tags that differ; `row` is locked, so nobody else writes them."""
    gone = [key for key in old if old[key] != new.get(key)]
    come = [(row["id"], key, value) for key, value in new.items() if old.get(key) != value]
    connection.execute("DELETE FROM tags WHERE image_id = %s AND key = ANY(%s)", (row["id"], gone))
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO tags VALUES (%s, %s, %s)", come)
