"""Life by policy: a project's rules for images and keys as they age, as a plan that can be printed, and then executed.

Never touched: protected images, and of each family the newest that can be used, so that no family loses its meaning.
What the policy deletes can be restored like anything that is deleted.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from darkroom import batch, changing, deleting, keyring
from darkroom.catalog import Connection, Row, images
from darkroom.errors import RefusedError
from darkroom.systems import Systems

MOST = 1000
"""Steps of one plan; what is left is the next one's."""


class RuleError(RefusedError):
    """Rules that cannot be."""

    code = "policy"
    what = "these cannot be the rules"
    default_remedy = "give days, images and minutes from 0, which means no such rule, to 36500"


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of a project; 0: no such rule.

    `deprecate_after` and `delete_after`: days since the image became active. `keep_last`: how many images of each
    family are kept, the usable ones first, then the newest; those beyond are deleted whatever their age, and those
    within are neither deprecated nor deleted by age. `check_minutes`: for checks in each run. `rotate_after`: days
    since the version of a key was made.
    """

    deprecate_after: int = 0
    delete_after: int = 0
    keep_last: int = 0
    check_minutes: int = 0
    rotate_after: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """What is to be done and why: `deprecate` or `delete` an image, or `rotate` the key `name`; then `image` is ""."""

    action: str
    image: str
    name: str
    reason: str


def rules(to: Systems) -> Rules:
    """The rules of the project; none if it has set none."""
    names = [field.name for field in dataclasses.fields(Rules)]
    query = "SELECT * FROM policies WHERE project_id = current_project()"
    with to.catalog.transaction() as connection:
        row = connection.execute(query).fetchone()
    return Rules(**{name: row[name] for name in names}) if row else Rules()


def set_rules(to: Systems, changes: dict[str, int]) -> Rules:
    """Change the rules that `changes` names; returns all. Raises RuleError."""
    new = dataclasses.replace(rules(to), **changes)
    values = dataclasses.asdict(new)
    if any(not 0 <= value <= 36500 for value in values.values()):
        raise RuleError(", ".join(f"{name} {value}" for name, value in changes.items()))
    with to.catalog.transaction() as connection:
        connection.execute(
            """INSERT INTO policies (deprecate_after, delete_after, keep_last, check_minutes, rotate_after)
            VALUES (%(deprecate_after)s, %(delete_after)s, %(keep_last)s, %(check_minutes)s, %(rotate_after)s)
            ON CONFLICT (project_id) DO UPDATE SET deprecate_after = excluded.deprecate_after,
                delete_after = excluded.delete_after, keep_last = excluded.keep_last,
                check_minutes = excluded.check_minutes, rotate_after = excluded.rotate_after, updated_at = now()""",
            values,
        )
        told = ", ".join(f"{name} {value}" for name, value in values.items())
        images.record_event(connection, "set-policy", None, "done", told)
    return new


def plan(to: Systems) -> list[Step]:
    """What the rules ask for now: keys, then images, the oldest first, at most MOST of them. Changes nothing."""
    asked = rules(to)
    query = """
        SELECT * FROM (
            SELECT i.id, i.name, i.family, i.status, i.deprecated_at, i.protected, i.active_at,
                floor(extract(epoch FROM now() - i.active_at) / 86400)::integer AS days,
                CASE WHEN i.family IS NOT NULL THEN row_number() OVER (PARTITION BY i.family
                    ORDER BY (i.status = 'active' AND i.deprecated_at IS NULL) DESC, i.active_at DESC, i.id DESC) END
                    AS place
            FROM images i WHERE i.project_id = current_project() AND i.status IN ('active', 'deactivated')
        ) i
        WHERE NOT protected AND coalesce(place > greatest(%(keep_last)s, 1), true) AND (
            (%(keep_last)s > 0 AND place IS NOT NULL)
            OR (%(delete_after)s > 0 AND days >= %(delete_after)s)
            OR (%(deprecate_after)s > 0 AND days >= %(deprecate_after)s
                AND deprecated_at IS NULL AND status = 'active'))
        ORDER BY active_at, id LIMIT %(most)s"""
    with to.catalog.transaction() as connection:
        rows = connection.execute(query, {**dataclasses.asdict(asked), "most": MOST}).fetchall()
    return _rotations(to, asked.rotate_after) + [_step(asked, row) for row in rows]


def _rotations(to: Systems, days: int) -> list[Step]:
    """The keys that are due, and those of which a rotation was cut off; no disabled ones, which nothing may use."""
    steps = []
    for key in to.keys.listed() if days else []:
        age = (datetime.now(UTC) - key.created_at).days
        if key.state == "enabled" and (key.rotating or age >= days):
            reason = "its rotation was cut off" if key.rotating else f"its version is {age} days old, of at most {days}"
            steps.append(Step("rotate", "", key.name, reason))
    return steps


def _step(wanted: Rules, row: Row) -> Step:
    named = (str(row["id"]), row["name"])
    if wanted.keep_last and row["place"]:
        return Step(
            "delete", *named, f"number {row['place']} of family {row['family']}, which keeps {wanted.keep_last}"
        )
    if wanted.delete_after and row["days"] >= wanted.delete_after:
        return Step("delete", *named, f"{row['days']} days old, of at most {wanted.delete_after}")
    return Step("deprecate", *named, f"{row['days']} days old, of at most {wanted.deprecate_after}")


def execute(to: Systems, steps: Sequence[Step]) -> list[batch.Result]:
    """Do the steps, with a result for each; an image that has been protected meanwhile is refused."""
    done = {step.image or f"key {step.name}": step for step in steps}
    results = batch.each(done, lambda subject: _execute(to, done[subject]))
    return [
        {**result, "image": step.image, "name": step.name, "reason": step.reason}
        for result, step in zip(results, done.values(), strict=True)
    ]


def _execute(to: Systems, step: Step) -> batch.Result:
    if step.action == "rotate":
        return {**keyring.rotate(to, step.name, lambda _done, _total: None), "outcome": "rotated"}
    if step.action == "delete":
        return deleting.delete(to, step.image)
    result = changing.change(to, step.image, "deprecate", _deprecated)
    return {**result, "outcome": "deprecated"}


def _deprecated(connection: Connection, row: Row) -> changing.Change:
    changing.require_status(row, "active")
    if row["protected"]:
        raise deleting.ProtectedError(str(row["id"]))
    now: Any = connection.execute("SELECT now() AS now").fetchone()
    return changing.Change({} if row["deprecated_at"] else {"deprecated_at": now["now"]}, "by policy")
