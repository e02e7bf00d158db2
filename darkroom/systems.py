"""The systems that an operation works with, opened together from the settings."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from uuid import UUID

from darkroom import audit, chunks, crypto, inbox, keys, postgres, store
from darkroom.catalog import Catalog, Connection, ProjectForbiddenError, Row, wraps
from darkroom.errors import DarkroomError, MissingError
from darkroom.keys import KeyManager
from darkroom.settings import Settings
from darkroom.store import Store


@dataclass(frozen=True, slots=True)
class Systems:
    """Catalog (as one project), object store, key manager, and the settings that they came from."""

    catalog: Catalog
    store: Store
    keys: KeyManager
    settings: Settings


class WrapMissingError(MissingError):
    """The project has no wrap of the image's data key, so it cannot read the image."""

    code = "wrap-not-found"
    what = "the data key of this image is not wrapped for the project"
    default_remedy = "if it is shared with the project, have its owner share it again"


@contextmanager
def open_systems(
    settings: Settings,
    *,
    object_store: Store | None = None,
    key_manager: Callable[[str], KeyManager] | None = None,
    catalog_url: str = "",
    operator: bool = False,
) -> Iterator[Systems]:
    """Open the systems; what is not given comes from the settings. Starts the embedded catalog if it is the one.

    `key_manager` opens the one of a project, which is the one that the catalog's account acts for. The `operator` sees
    all projects' rows, and has no keys; that takes the DSN of the schema's owner or of the operator, which in turn acts
    as no project: ProjectForbiddenError. An error of ours that ends the block is told to the audit log.
    """
    with Catalog(catalog_url or catalog_dsn(settings), None if operator else settings.project) as catalog:
        if catalog.project is None and not operator:
            raise ProjectForbiddenError("this", "the account of a project", "the operator's", "name the project's")
        settings = replace(settings, project=catalog.project or "")
        opened = key_manager(settings.project) if key_manager else open_key_manager(settings)
        try:
            yield Systems(catalog, object_store or open_object_store(settings), opened, settings)
        except DarkroomError as error:
            audit.record_refusal(catalog, error)
            raise


def identity(catalog: Catalog, object_store: Store, key_manager: KeyManager) -> dict[str, str]:
    """Which systems these are, without a secret: what two processes that work with the same agree on."""
    return {
        "catalog": catalog.identity(),
        "object store": f"{object_store.url} {object_store.endpoint_url}".rstrip(),
        "key manager": f"{key_manager.url} {key_manager.endpoint_url}".rstrip(),
    }


def catalog_dsn(settings: Settings) -> str:
    """The DSN of the catalog; starts the embedded one if it is the one."""
    return settings.catalog_url or postgres.ensure(settings.home / "catalog")


def operator_catalog(settings: Settings) -> Catalog:
    """The catalog with the rows of all projects; raises ProjectForbiddenError where the account is a project's."""
    return Catalog(catalog_dsn(settings), None)


def open_object_store(settings: Settings) -> Store:
    """The object store of the settings."""
    return store.open_store(settings.store_url or str(settings.home / "store"), settings)


def open_key_manager(settings: Settings) -> KeyManager:
    """The key manager of the settings, opened for their project."""
    return keys.open_keys(settings.keys_url or str(settings.home / "keys.json"), settings)


def data_key_context(project: str, image: UUID) -> dict[str, str]:
    """The encryption context of an image's data key."""
    return {"purpose": "data key", "project": project, "image": str(image)}


def scope_secret_context(project: str, scope: UUID) -> dict[str, str]:
    """The encryption context of a scope's secret."""
    return {"purpose": "scope secret", "project": project, "scope": str(scope)}


def data_key(systems: Systems, image: Row) -> bytes:
    """Unwrap the data key of an encrypted image; an empty one for a plain image. Raises WrapMissingError."""
    if image["key_name"] is None:
        return b""
    with systems.catalog.transaction() as connection:
        return unwrap_data_key(systems, connection, image)


def unwrap_data_key(systems: Systems, connection: Connection, image: Row) -> bytes:
    """Unwrap the project's wrap of the data key, as this transaction sees it. Raises WrapMissingError."""
    wraps.hold(connection)
    wrap = wraps.of_image(connection, image["id"])
    if wrap is None:
        return receive_data_key(systems, connection, image["id"], image["project_id"])
    context = data_key_context(systems.settings.project, image["id"])
    return systems.keys.unwrap(wrap["key_name"], wrap["wrapped"], context)


def receive_data_key(systems: Systems, connection: Connection, image: UUID, owner: UUID, key: str = "") -> bytes:
    """Open what the owner of an accepted image has sealed to the project, once; a wrap by `key` takes its place.

    `key` is by default the one that the inbox is under. Raises WrapMissingError where nothing is sealed.
    """
    wraps.hold(connection)
    query = """SELECT m.project_id, m.sealed, b.key_name, b.wrapped FROM members m JOIN inboxes b USING (project_id)
        WHERE m.image_id = %s AND m.project_id = current_project() AND m.sealed IS NOT NULL FOR UPDATE OF m"""
    row = connection.execute(query, (image,)).fetchone()
    if row is None:
        raise WrapMissingError(str(image))
    private = systems.keys.unwrap(row["key_name"], row["wrapped"], inbox.context(systems.keys.project))
    data_key = crypto.open_data_key(private, row["sealed"], image, owner, row["project_id"])
    wrap_data_key(systems, connection, image, key or row["key_name"], data_key)
    connection.execute(
        "UPDATE members SET sealed = NULL WHERE image_id = %s AND project_id = current_project()", (image,)
    )
    return data_key


def wrap_data_key(systems: Systems, connection: Connection, image: UUID, key: str, data_key: bytes) -> None:
    """Put a wrap by `key` in place of the project's wrap of a data key, if it has one. Raises what its use raises."""
    wraps.hold(connection)
    context = data_key_context(systems.settings.project, image)
    wraps.replace(connection, image, key, systems.keys.wrap(key, data_key, context))


def create_data_key(systems: Systems, image: Row) -> None:
    """Create and wrap the data key of an encrypted image, once; a plain image needs none."""
    if image["key_name"] is None:
        return
    context = data_key_context(systems.settings.project, image["id"])
    with systems.catalog.transaction() as connection:
        wraps.hold(connection)
        if wraps.of_image(connection, image["id"]) is None:
            _, wrapped = systems.keys.generate(image["key_name"], context)
            wraps.insert(connection, image["id"], image["key_name"], wrapped)
        inbox.ensure(connection, systems.keys, image["key_name"])


def ensure_scope(systems: Systems, key_name: str | None) -> tuple[int, chunks.Scope]:
    """Return the row and the scope in which the project's images under this key deduplicate; creates it once."""
    found = _scope(systems, key_name)
    if found is None:
        # A transaction of its own: an object without a row is a catalog that lost its own.
        with systems.catalog.transaction() as connection:
            wraps.hold(connection)
            _create_scope(systems, connection, key_name)
        found = _scope(systems, key_name)
    assert found
    return found


def _scope(systems: Systems, key_name: str | None) -> tuple[int, chunks.Scope] | None:
    secret = b""
    with systems.catalog.transaction() as connection:
        wraps.hold(connection)
        row = _scope_row(connection, key_name)
        if row is None:
            return None
        if key_name is not None:
            context = scope_secret_context(systems.settings.project, row["uuid"])
            secret = systems.keys.unwrap(key_name, row["wrapped_secret"], context)
        if not any(systems.store.list(_description_key(row))):
            describe_scope(systems, row)  # before a rotation could make it the description of yesterday
    return row["id"], chunks.Scope(row["uuid"], encrypted=key_name is not None, secret=secret)


def _scope_row(connection: Connection, key_name: str | None) -> Row | None:
    query = "SELECT * FROM scopes WHERE project_id = current_project() AND key_name IS NOT DISTINCT FROM %s"
    return connection.execute(query, (key_name,)).fetchone()


def _create_scope(systems: Systems, connection: Connection, key_name: str | None) -> None:
    """Make a scope, unless a racing import was first; then its scope is ours."""
    scope, wrapped = UUID(bytes=crypto.random_key()[:16], version=4), None
    if key_name is not None:
        _, wrapped = systems.keys.generate(key_name, scope_secret_context(systems.settings.project, scope))
    connection.execute(
        "INSERT INTO scopes (uuid, key_name, wrapped_secret) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
        (scope, key_name, wrapped),
    )


def describe_scope(systems: Systems, row: Row) -> None:
    """Put the object that the scope's row can be rebuilt from, in place of one that is there."""
    description = {
        "version": crypto.VERSION,
        "project": systems.settings.project,
        "key": row["key_name"],
        "wrapped_secret": row["wrapped_secret"].hex() if row["wrapped_secret"] else None,
    }
    body = json.dumps(description, indent=1).encode()
    systems.store.put(_description_key(row), [body], len(body))


def _description_key(row: Row) -> str:
    return f"scopes/{row['uuid']}/scope.json"
