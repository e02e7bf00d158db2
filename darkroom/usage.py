"""Usage: what images take in the store, and what deduplication saves; by project, by family, and over time.

Stored: what the images would take if each were kept for itself. Unique: what they take together. Deduplicated: the
difference. All in bytes, as they are in the store: compressed, without zeros.
"""

from typing import Any

from psycopg import sql

from darkroom.catalog import Row
from darkroom.systems import Systems

_MEMBERS = "i.status IN ('active', 'deactivated')"
# A pack is stored once, however many images refer to it.
_BY = """
    SELECT g.name, g.images, g.stored, least(g.stored, coalesce(p.size, 0)) AS unique, greatest(g.stored - p.size, 0)
        AS deduplicated
    FROM (SELECT {key} AS key, {name} AS name, count(*) AS images, coalesce(sum(i.stored_size), 0)::bigint AS stored
            FROM images i {join} WHERE {members} GROUP BY 1, 2) g
    LEFT JOIN (SELECT d.key, sum(d.size)::bigint AS size
            FROM (SELECT DISTINCT {key} AS key, k.id, k.size FROM images i {join} JOIN refs r ON r.image_id = i.id
                JOIN packs k ON k.id = r.pack_id WHERE {members} AND k.status = 'stored') d GROUP BY 1) p
        ON p.key IS NOT DISTINCT FROM g.key
    ORDER BY g.stored DESC, g.name"""
_GROWTH = """
    SELECT date_trunc('day', i.active_at)::date AS day, sum(sum(coalesce(i.stored_size, 0))) OVER w::bigint AS stored,
        sum(sum(coalesce(i.new_size, 0))) OVER w::bigint AS unique
    FROM images i WHERE {members} AND i.active_at IS NOT NULL GROUP BY 1 WINDOW w AS (ORDER BY 1) ORDER BY 1"""


def usage(to: Systems) -> dict[str, list[dict[str, Any]]]:
    """What the project's images take, or for the operator those of all projects.

    `projects` and `families`: name, images, stored, unique and deduplicated bytes, the largest first; images without a
    family have the name "". `growth`: for each day the bytes that the images up to it were stored and unique when
    they came, of those that are still there.
    """
    own = sql.SQL("i.project_id = coalesce((SELECT current_project()), i.project_id) AND ") + sql.SQL(_MEMBERS)
    with to.catalog.transaction() as connection:

        def rows(query: str, **parts: str) -> list[Row]:
            filled = sql.SQL(query).format(members=own, **{name: sql.SQL(part) for name, part in parts.items()})
            return connection.execute(filled).fetchall()

        join = "JOIN projects o ON o.id = i.project_id"
        projects = rows(_BY, key="i.project_id", name="o.name", join=join)
        families = rows(_BY, key="i.family", name="coalesce(i.family, '')", join="")
        growth = rows(_GROWTH)
    return {"projects": projects, "families": families, "growth": growth}
