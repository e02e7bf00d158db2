"""The inbox of a project: an X25519 key pair, to which the owners of encrypted images seal their data keys.

So neither the owner's KEK nor the member's is ever needed by the other. The private key is wrapped by a KEK of the
project; the public one is in the catalog, for whoever shares with it.
"""

from darkroom import crypto
from darkroom.catalog import Catalog, Connection, Row, images, wraps
from darkroom.keys import KeyManager


def context(project: str) -> dict[str, str]:
    """The encryption context of a project's inbox."""
    return {"purpose": "inbox", "project": project}


def ensure(connection: Connection, keys: KeyManager, key: str) -> None:
    """Make the project's inbox, its private key wrapped by `key`, unless it has one. Raises what a use of it raises."""
    wraps.hold(connection)
    if _found(connection) is None:
        private, public = crypto.new_inbox()
        connection.execute(
            "INSERT INTO inboxes (key_name, public_key, wrapped) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
            (key, public, keys.wrap(key, private, context(keys.project))),
        )


def move(catalog: Catalog, keys: KeyManager, key: str, *, renew: bool = False) -> None:
    """Put the project's inbox under `key`; makes it if there is none. Raises what a use of either key raises.

    With `renew` the key pair is a new one, for when the key that wraps the old one is lost: what is sealed to that
    cannot be opened any more, and must be shared again.
    """
    with catalog.transaction() as connection:
        ensure(connection, keys, key)
        row = _found(connection)
        assert row
        if renew:
            private, public = crypto.new_inbox()
            wrapped = keys.wrap(key, private, context(keys.project))
        else:
            public = row["public_key"]
            wrapped = keys.rewrap(row["key_name"], row["wrapped"], context(keys.project), key)
        connection.execute(
            "UPDATE inboxes SET key_name = %s, public_key = %s, wrapped = %s WHERE project_id = current_project()",
            (key, public, wrapped),
        )
        images.record_event(connection, "move-inbox", None, "done", f"{key}{': a new one' if renew else ''}")


def _found(connection: Connection) -> Row | None:
    return connection.execute("SELECT * FROM inboxes WHERE project_id = current_project() FOR UPDATE").fetchone()
