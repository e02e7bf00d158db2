"""Projects: who owns images. Only the operator, who holds the DSN of the schema's owner, makes them."""

from darkroom import rules
from darkroom.catalog import Catalog, ProjectMissingError, Row, create_project
from darkroom.errors import ConflictError


class ProjectExistsError(ConflictError):
    """A project of that name exists already."""

    code = "project-exists"
    what = "a project of that name exists already"


def create(operator: Catalog, name: str) -> None:
    """Make a project and the database role that acts for it; raises NameInvalidError, ProjectExistsError."""
    rules.check_name(name)
    with operator.transaction() as connection:
        if connection.execute("SELECT 1 FROM projects WHERE name = %s", (name,)).fetchone():
            raise ProjectExistsError(name)
        create_project(connection, name)
        connection.execute(
            """INSERT INTO events (project_id, operation, outcome)
            SELECT id, 'create-project', 'done' FROM projects WHERE name = %s""",
            (name,),
        )


def set_window(operator: Catalog, name: str, days: int) -> None:
    """Keep images that the project deletes from now on restorable for so many days; raises ProjectMissingError."""
    with operator.transaction() as connection:
        query = "UPDATE projects SET restore_window = make_interval(days => %s) WHERE name = %s"
        if not connection.execute(query, (days, name)).rowcount:
            raise ProjectMissingError(name)
        connection.execute(
            """INSERT INTO events (project_id, operation, outcome, reason)
            SELECT id, 'set-window', 'done', %s FROM projects WHERE name = %s""",
            (f"{days} days", name),
        )


def listed(operator: Catalog) -> list[Row]:
    """All projects by name, each with its images that are not final and what their packs take, in bytes."""
    query = """
        SELECT p.name, p.created_at,
            (SELECT count(*) FROM images i
                WHERE i.project_id = p.id AND i.status NOT IN ('killed', 'deleted')) AS images,
            (SELECT coalesce(sum(k.size), 0)::bigint FROM packs k JOIN scopes s ON s.id = k.scope_id
                WHERE s.project_id = p.id AND k.status = 'stored') AS stored_size
        FROM projects p ORDER BY p.name"""
    with operator.transaction() as connection:
        return connection.execute(query).fetchall()
