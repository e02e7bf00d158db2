"""The steps of an import and an export as a flow takes them, without Prefect."""

import dataclasses
from datetime import UTC, datetime

from darkroom import collect, creation, exporting, importing, keyring, reading, rebuilding, replicating
from darkroom.catalog import Catalog, images
from darkroom.importing import ImportRequest
from darkroom.replicating import ReplicateRequest

STEPS = ("validate", "probe", "create_data_key", "upload_disk", "read_back", "activate")


def quiet(done, total):
    pass


def import_image(to, source, name="one", until="", **fields):
    """Import up to and with the step `until`, else to the end; the image's id."""
    found = importing.register(to, ImportRequest(source=str(source), name=name, **fields))
    image = found["image"]
    if found["status"] == "active" or until == "register":
        return image
    for step in STEPS:
        if step == "upload_disk" and fields.get("digest"):
            importing.verify_digest(to, image, quiet)
        takes_progress = step in ("validate", "upload_disk", "read_back")
        function = getattr(importing, step, None) or getattr(creation, step)
        function(to, image, *([quiet] if takes_progress else []))
        if step == until:
            break
    return image


def replicate(to, source, name="copy", until="", **fields):
    """Replicate up to and with the step `until`, else to the end; the copy's id."""
    found = replicating.register(to, ReplicateRequest(image=source, name=name, **fields))
    image = found["image"]
    if found["status"] == "active" or until == "register":
        return image
    linked = False
    for step in ("add_disks", "create_data_key", "copy_disks", "read_back", "activate"):
        if step == "read_back" and linked:
            continue
        function = getattr(replicating, step, None) or getattr(creation, step)
        result = function(to, image, *([quiet] if step in ("copy_disks", "read_back") else []))
        linked = linked or result.get("linked", False)
        if step == until:
            break
    return image


def rotate(to, name):
    return keyring.rotate(to, name, quiet)


def image_row(to, name, tags=None, **columns):
    """An image of which there is only the row, active unless said otherwise; its id."""
    made = {"type": "system", "source": "/x", "request": {}, "virtual_size": 1 << 30, "stored_size": 1 << 20}
    with to.catalog.transaction() as connection:
        image = images.create(connection, {"name": name, **made}, tags or {})
        creation.add_disks(connection, image, [made["virtual_size"]])
        images.update(connection, image, **{"status": "active", "active_at": datetime.now(UTC), **columns})
    return str(image)


def export_image(to, image, target, format="raw"):
    return exporting.export(to, image, str(target), format, quiet)


def content(to, image):
    """All guest-visible bytes of an image, read from the store."""
    with reading.open_disk(to, images.get(to.catalog, image)) as reader:
        return reader.read(0, reader.size)


def collector_plan(to, catalog_url):
    with Catalog(catalog_url, None) as operator:
        return collect.plan(operator, to.store)


def rebuild(to):
    return rebuilding.rebuild(to, quiet)


def with_store(to, store):
    return dataclasses.replace(to, store=store)


def objects(to):
    return dict(to.store.list(""))
