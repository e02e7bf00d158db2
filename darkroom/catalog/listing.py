"""Lists of images: which, in which order, a page at a time.

A page is a range of an index, found by the values of the image before it: as fast at the millionth as at the first.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from psycopg import sql

from darkroom.catalog import Catalog, Connection, Row
from darkroom.errors import RefusedError

MAX_PAGE = 1000
SORTS = {
    "created_at": ("i.created_at", "i.id"),
    "name": ('i.name COLLATE "C"', "i.id"),
    "size": ("CASE WHEN i.stored_size IS NULL THEN 0 ELSE i.stored_size END", "i.id"),
    "status": ("i.status", "i.created_at", "i.id"),
}
"""The columns of each order, as they stand in the index that gives it."""
_LAST = "\U0010ffff"
_WILD = str.maketrans({"\\": "\\\\", "%": "\\%", "_": "\\_", "*": "%", "?": "_"})


class PageError(RefusedError):
    """A page that cannot be: its size, its order."""

    code = "page"
    what = "there is no such page"
    default_remedy = f"give a limit of 1 to {MAX_PAGE}, and one of these orders: {' '.join(SORTS)}"
    exit_code = 2


class MarkerError(RefusedError):
    """The image behind which a page was to begin is not there any more."""

    code = "marker"
    what = "there is no such image to go on behind"
    default_remedy = "begin again without --marker"


@dataclass(frozen=True, slots=True)
class Filter:
    """Which images; what is empty does not matter. A tag is `key=value`, or `key` with whatever value.

    `tags`: all of them; `any_tags`: at least one; `not_tags`: none. `name`: with `*` and `?` as wild cards. `system`:
    the beginning of the guest's system, such as Linux or Debian. `whose`: the project's own, or those that it accepted.
    Deleted images are listed only where `statuses` asks for them.
    """

    tags: Sequence[str] = ()
    any_tags: Sequence[str] = ()
    not_tags: Sequence[str] = ()
    statuses: Sequence[str] = ()
    types: Sequence[str] = ()
    system: str = ""
    name: str = ""
    family: str = ""
    whose: Literal["all", "own", "shared"] = "all"


def page(
    catalog: Catalog, which: Filter, sort: str = "created_at:desc", limit: int = 500, marker: str = ""
) -> list[Row]:
    """At most `limit` images behind the one with the id `marker`, each with `tags`, `own`, and `owner` if it is shared.

    `sort` is one of SORTS, with `:desc` for the reverse. Raises PageError, MarkerError.
    """
    with catalog.transaction() as connection:
        return connection.execute(_page_query(connection, which, sort, limit, marker)).fetchall()


def _page_query(connection: Connection, which: Filter, sort: str, limit: int, marker: str) -> sql.Composed:
    order, _, direction = sort.partition(":")
    if order not in SORTS or direction not in ("", "asc", "desc") or not 1 <= limit <= MAX_PAGE:
        raise PageError(f"{sort}, {limit}")
    columns = [sql.SQL(column) for column in SORTS[order]]
    way, comparison = (sql.SQL(" DESC"), sql.SQL("<")) if direction == "desc" else (sql.SQL(""), sql.SQL(">"))
    ordered = sql.SQL(" ORDER BY ") + sql.SQL(", ").join(column + way for column in columns)
    conditions = _conditions(which)
    if marker:
        left, right = sql.SQL(", ").join(columns), sql.SQL(", ").join(_values_of(connection, columns, marker))
        conditions.append(sql.SQL("({}) {} ({})").format(left, comparison, right))
    ordered += sql.SQL(" LIMIT {}").format(limit)
    parts = [sql.SQL("({})").format(_select(whose, conditions) + ordered) for whose in _sides(which)]
    return _decorated(sql.SQL(" UNION ALL ").join(parts)) + ordered


def select(which: Filter, columns: sql.Composable, *, all_projects: bool = False) -> sql.Composed:
    """A query of columns of images `i`, newest first; of the own ones, or for the operator those of all projects."""
    conditions = sql.SQL(" AND ").join(_conditions(which))
    if all_projects:
        rest = sql.SQL("FROM images i WHERE {} ORDER BY i.project_id, i.created_at DESC, i.id DESC")
    else:
        rest = sql.SQL(
            "FROM images i WHERE i.project_id = (SELECT current_project()) AND {} ORDER BY i.created_at DESC, i.id DESC"
        )
    return sql.SQL("SELECT ") + columns + sql.SQL(" ") + rest.format(conditions)


def _sides(which: Filter) -> list[str]:
    return ["own", "shared"] if which.whose == "all" else [which.whose]


def _select(whose: str, conditions: list[sql.Composable]) -> sql.Composed:
    """The own images by the index of the project, or those that others share, which are few, by their ids."""
    side = {
        "own": sql.SQL("i.project_id = (SELECT current_project())"),
        "shared": sql.SQL(
            "i.id = ANY ((SELECT shared_images())::uuid[]) AND i.project_id <> (SELECT current_project())"
        ),
    }[whose]
    own = sql.SQL("true" if whose == "own" else "false")
    where = sql.SQL(" AND ").join([side, *conditions])
    return sql.SQL("SELECT i.*, {} AS own FROM images i WHERE {}").format(own, where)


def _decorated(found: sql.Composable) -> sql.Composed:
    """With what only the images of a page are asked for."""
    return sql.SQL(
        """SELECT i.*, (SELECT coalesce(jsonb_object_agg(t.key, t.value), '{{}}') FROM tags t WHERE t.image_id = i.id)
            AS tags, CASE WHEN NOT i.own THEN (SELECT s.owner FROM incoming() s WHERE s.image_id = i.id) END AS owner
        FROM ({}) i"""
    ).format(found)


def _values_of(connection: Connection, columns: list[sql.SQL], marker: str) -> list[sql.Composable]:
    """What an image has in the columns of the order."""
    named = sql.SQL(", ").join(sql.SQL("{} AS {}").format(column, _number(n)) for n, column in enumerate(columns))
    try:
        image = sql.Literal(UUID(marker))
    except ValueError:
        raise MarkerError(marker) from None
    row = connection.execute(sql.SQL("SELECT {} FROM images i WHERE i.id = {}").format(named, image)).fetchone()
    if row is None:
        raise MarkerError(marker)
    return [_literal(row[str(n)]) for n in range(len(columns))]


def _literal(value: Any) -> sql.Composable:
    """As wide as the column: only then is the comparison one that the index may make before the policy is asked."""
    return sql.SQL("{}::bigint").format(value) if isinstance(value, int) else sql.Literal(value)


def _number(number: int) -> sql.Identifier:
    return sql.Identifier(str(number))


def _conditions(which: Filter) -> list[sql.Composable]:
    """What an image `i` must be, as conditions that hold together."""
    found: list[sql.Composable] = []
    if "deleted" not in which.statuses:
        found.append(sql.SQL("i.status <> 'deleted'"))  # as the indexes say it
    for column, values in (("status", which.statuses), ("type", which.types)):
        if values:
            found.append(sql.SQL("i.{} = ANY({})").format(sql.Identifier(column), sql.Literal(list(values))))
    if which.name:
        found.extend(_named(which.name))
    if which.family:
        found.append(sql.SQL("i.family = {}").format(sql.Literal(which.family)))
    if which.system:
        begins = sql.SQL("(i.properties->>'os_type' ILIKE {0} OR i.properties->>'os_version' ILIKE {0})")
        found.append(begins.format(sql.Literal(f"{which.system}*".translate(_WILD))))
    found.extend(_tagged([tag]) for tag in which.tags)
    if which.any_tags:
        found.append(_tagged(which.any_tags))
    found.extend(sql.SQL("NOT ") + _tagged([tag]) for tag in which.not_tags)
    return found


def _named(pattern: str) -> list[sql.Composable]:
    """The range of names that the pattern's fixed beginning allows, which an index finds; then the pattern itself."""
    fixed = re.split(r"[*?]", pattern, maxsplit=1)[0]
    name = sql.SQL('i.name COLLATE "C"')
    if fixed == pattern:
        return [sql.SQL("{} = {}").format(name, sql.Literal(pattern))]
    bounds = sql.SQL("{0} >= {1} AND {0} < {2}").format(name, sql.Literal(fixed), sql.Literal(fixed + _LAST))
    return [bounds, sql.SQL("i.name LIKE {}").format(sql.Literal(pattern.translate(_WILD)))]


def _tagged(tags: Sequence[str]) -> sql.Composed:
    """Whether an image has at least one of the tags."""
    alternatives = []
    for tag in tags:
        key, equals, value = tag.partition("=")
        has = sql.SQL("t.key = {}").format(sql.Literal(key))
        alternatives.append(has + sql.SQL(" AND t.value = {}").format(sql.Literal(value)) if equals else has)
    either = sql.SQL(" OR ").join(sql.SQL("({})").format(alternative) for alternative in alternatives)
    return sql.SQL("EXISTS (SELECT FROM tags t WHERE t.image_id = i.id AND ({}))").format(either)
