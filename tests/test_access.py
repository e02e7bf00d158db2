"""Who may do what: every operation for the owner, members of every status, strangers and the operator."""

import dataclasses
import random

import pytest

from darkroom import (
    capturing,
    check,
    deleting,
    exporting,
    inbox,
    modifying,
    proving,
    reading,
    rekeying,
    replicating,
    servers,
    sharing,
    standing,
    systems,
    tagging,
    volumes,
)
from darkroom.capturing import CaptureRequest, DiskMissingError
from darkroom.catalog import Catalog, ProjectMissingError, create_project, images
from darkroom.compute import hosts
from darkroom.compute.connection import DomainMissingError
from darkroom.errors import DarkroomError
from darkroom.replicating import ReplicateRequest
from darkroom.servers import ServerRequest
from darkroom.settings import Settings
from darkroom.systems import open_systems
from darkroom.volumes import VolumeRequest
from tests import operations
from tests.conftest import make_disk

MEMBERS = ("pending", "accepted", "rejected", "stranger")
NEVER_WAS = "0badc0de-0000-4000-8000-000000000000"


def batched(results):
    """The one result of a batch; a refusal is raised as its error, by the name of its code."""
    if results[0]["outcome"] == "refused":
        raise RefusedInBatchError(results[0]["code"], results[0]["message"])
    return results[0]


class RefusedInBatchError(DarkroomError):
    def __init__(self, code, message):
        super().__init__(code)
        self.code, self.message = code, message

    def __str__(self):
        return self.message


def open_bytes(to, image):
    with reading.open_disk(to, images.get(to.catalog, image)) as reader:
        return reader.read(0, reader.size)


READS = {
    "show": lambda to, image: images.find(to.catalog, image),
    "show by prefix": lambda to, image: images.find(to.catalog, image[:13]),
    "read": open_bytes,
    "check": lambda to, image: check.check_images(to, image, 0, lambda *_: None),
    "export": lambda to, image: exporting.export(
        to, image, str(to.settings.home / f"{to.settings.project}.qcow2"), "qcow2", operations.quiet
    ),
    "replicate": lambda to, image: replicating.register(to, ReplicateRequest(image=image, name="copy", plain=True)),
    "server": lambda to, image: servers.register(to, ServerRequest(image=image, name="guest")),
    "volume": lambda to, image: volumes.register(to, VolumeRequest(image=image, name="data")),
    "data key": lambda to, image: systems.data_key(to, images.get(to.catalog, image)),
}
CHANGES = {
    "modify": lambda to, image: batched(modifying.modify(to, [image], modifying.Changes({"description": "mine"}))),
    "tag": lambda to, image: batched(tagging.tag(to, [image], {"mine": "yes"}, [])),
    "untag": lambda to, image: batched(tagging.tag(to, [image], {}, ["team"])),
    "deprecate": lambda to, image: batched(standing.deprecate(to, [image])),
    "deactivate": lambda to, image: batched(standing.deactivate(to, [image])),
    "rekey": lambda to, image: rekeying.rekey(to, image, f"{to.settings.project}-2"),
    "share": lambda to, image: sharing.share(to, image, "third"),
    "unshare": lambda to, image: sharing.unshare(to, image, "accepted"),
    "delete": deleting.delete,
}
ENDS = {
    "restore": deleting.restore,
    "purge": deleting.purge,
    "cancel": deleting.cancel,
}
NEED_A_HOST = {
    "boot-test": lambda to, image: proving.prove(to, image, proving.ProofRequest(), operations.quiet),
}
ANSWERS = {
    "accept": sharing.accept,
    "reject": sharing.reject,
}


@pytest.fixture
def world(to, catalog_url, home, tmp_path):
    """Systems of each project by its name; all of them know the encrypted image `one` of the project `owner`."""
    with Catalog(catalog_url, None) as operator, operator.transaction() as connection:
        for project in ("owner", *MEMBERS, "third"):
            create_project(connection, project)
    with Catalog(catalog_url, None) as operator:
        hosts.add(operator, hosts.Host("local", "test:///default", home / "host", "tcg", 1 << 30))
    opened, found = [], {}
    for project in ("owner", *MEMBERS, "third"):
        settings = dataclasses.replace(Settings(), project=project, keys_url=str(home / f"{project}.json"))
        opened.append(open_systems(settings))
        found[project] = opened[-1].__enter__()
        for key in (project, f"{project}-2"):
            found[project].keys.create(key)
        inbox.move(found[project].catalog, found[project].keys, project)
    yield found
    for each in opened:
        each.__exit__(None, None, None)


def shared(world, tmp_path, name="one"):
    """An image with a member of each status; its id."""
    disk = make_disk(tmp_path / "disk.raw", size=3 << 20)
    image = operations.import_image(world["owner"], disk, name=name, key="owner", tags={"team": "web"})
    for member in ("pending", "accepted", "rejected"):
        sharing.share(world["owner"], image, member)
    sharing.accept(world["accepted"], image)
    sharing.reject(world["rejected"], image)
    return image


def rows(catalog_url):
    """All that the catalog says of the owner's images and who their members are."""
    tables = (
        "server_disks",
        "images",
        "tags",
        "disks",
        "refs",
        "packs",
        "chunks",
        "members",
        "wraps",
        "scopes",
        "servers",
    )
    with Catalog(catalog_url, None) as operator, operator.transaction() as connection:
        return {table: sorted(map(str, connection.execute(f"SELECT * FROM {table}"))) for table in tables}


def said(operation, to, image):
    """The code of the error and its words, whichever image it names."""
    with pytest.raises(DarkroomError) as caught:
        operation(to, image)
    text = str(caught.value)
    for length in (36, 13):
        text = text.replace(image[:length], "ID")
    return caught.value.code, text


def test_whoever_may_not_see_the_image_is_told_what_is_told_of_an_id_that_never_was(world, tmp_path, catalog_url):
    image = shared(world, tmp_path)
    before = rows(catalog_url)

    for project in ("pending", "rejected", "stranger"):
        for name, operation in {**READS, **CHANGES, **ENDS, **NEED_A_HOST}.items():
            told = said(operation, world[project], image)
            assert told[0] == "image-not-found", (project, name)
            assert told == said(operation, world[project], NEVER_WAS), (project, name)
    for operation in ANSWERS.values():
        assert said(operation, world["stranger"], image) == said(operation, world["stranger"], NEVER_WAS)
        assert said(operation, world["owner"], image) == said(operation, world["owner"], NEVER_WAS)
    assert rows(catalog_url) == before


def test_an_accepted_member_reads_and_does_not_change(world, tmp_path, catalog_url):
    image = shared(world, tmp_path)
    before = rows(catalog_url)

    for name, operation in {**CHANGES, **ENDS, **NEED_A_HOST}.items():
        assert said(operation, world["accepted"], image)[0] == "not-owner", name
    assert rows(catalog_url) == before
    for operation in READS.values():
        operation(world["accepted"], image)
    assert open_bytes(world["accepted"], image) == (tmp_path / "disk.raw").read_bytes()
    assert images.find(world["accepted"].catalog, "one")["id"] == images.get(world["owner"].catalog, image)["id"]


def test_a_server_is_captured_by_its_project_alone(world, tmp_path, catalog_url):
    """Even by who knows the id that libvirt has for it; on a host that libvirt plays."""
    image = shared(world, tmp_path)
    server = READS["server"](world["owner"], image)["server"]
    domain = """<node><domain type='test'><name>dk-{0}</name><uuid>{0}</uuid><memory>65536</memory><vcpu>1</vcpu>
        <os><type>hvm</type></os></domain></node>"""
    (tmp_path / "node.xml").write_text(domain.format(server))
    with Catalog(catalog_url, None) as operator, operator.transaction() as connection:
        connection.execute("UPDATE hosts SET uri = %s", (f"test://{tmp_path}/node.xml",))
    before = rows(catalog_url)

    for project in MEMBERS:
        for reference in ("guest", server, f"dk-{server}", NEVER_WAS):
            with pytest.raises(DomainMissingError):
                capturing.register(world[project], CaptureRequest(server=reference, name="taken"))
    with pytest.raises(DiskMissingError):  # such a guest has none
        capturing.register(world["owner"], CaptureRequest(server="guest", name="taken"))
    assert rows(catalog_url) == before


@pytest.mark.parametrize("project", ["pending", "accepted", "rejected"])
@pytest.mark.parametrize("answer", ANSWERS)
def test_members_of_every_status_may_answer(world, tmp_path, project, answer):
    image = shared(world, tmp_path)

    ANSWERS[answer](world[project], image)

    if answer == "accept":
        assert open_bytes(world[project], image) == (tmp_path / "disk.raw").read_bytes()
    else:
        assert said(READS["read"], world[project], image)[0] == "image-not-found"


def test_the_owner_may_do_all_but_answer(world, tmp_path):
    image = shared(world, tmp_path)

    for operation in READS.values():
        operation(world["owner"], image)
    for name, operation in CHANGES.items():
        operation(world["owner"], image if name != "delete" else shared(world, tmp_path, "two"))
        if name == "deactivate":
            standing.activate(world["owner"], [image])
    assert deleting.restore(world["owner"], "two", "three")["outcome"] == "restored"
    assert deleting.cancel(world["owner"], "copy")["outcome"] == "cancelled"
    deleting.delete(world["owner"], "three")
    assert deleting.purge(world["owner"], "three")["outcome"] == "purged"


def test_what_is_deleted_or_unfinished_is_there_for_its_owner_alone(world, tmp_path, catalog_url):
    owner, deleted = world["owner"], shared(world, tmp_path)
    unfinished = READS["replicate"](owner, deleted)["image"]
    deleting.delete(owner, deleted)
    before = rows(catalog_url)

    for project in MEMBERS:
        for image in (deleted, unfinished):
            for name, operation in {**READS, **CHANGES, **ENDS, **NEED_A_HOST, **ANSWERS}.items():
                told = said(operation, world[project], image)
                assert told == said(operation, world[project], NEVER_WAS), (project, name)
                assert told[0] == "image-not-found", (project, name)
    assert rows(catalog_url) == before


def test_the_operator_sees_and_maintains_and_has_no_keys(world, tmp_path, to):
    image = shared(world, tmp_path)

    with open_systems(Settings(), operator=True) as operator:
        assert images.find(operator.catalog, image)["own"]
        with pytest.raises(DarkroomError):
            open_bytes(operator, image)
        unfinished = READS["replicate"](world["owner"], image)["image"]
        assert deleting.cancel(operator, unfinished)["outcome"] == "cancelled"
        deleting.delete(operator, image)
        assert deleting.restore(operator, image)["outcome"] == "restored"
        assert batched(tagging.tag(operator, [image], {"kept": "yes"}, []))["outcome"] != "refused"
        deleting.delete(operator, image)
        assert deleting.purge(operator, image)["outcome"] == "purged"
    for project in ("owner", "accepted"):
        assert said(READS["read"], world[project], image)[0] in ("image-not-found", "not-readable")


@pytest.mark.parametrize("seed", range(2))
def test_after_any_sequence_of_operations_exactly_the_accepted_members_of_active_images_read(world, tmp_path, seed):
    """A model of who is what, against the catalog and the read path, step by step."""
    source = random.Random(seed)
    disk = make_disk(tmp_path / "disk.raw", size=3 << 20)
    owner, members = world["owner"], {name: world[name] for name in MEMBERS[:3]}
    image = operations.import_image(owner, disk, name="one", key="owner")
    status, active = dict.fromkeys(members), True

    for _ in range(25):
        name = source.choice(list(members))
        step = source.choice(("share", "unshare", "accept", "accept", "reject", "switch", "rekey"))
        if step == "share" and active:
            sharing.share(owner, image, name)
            status[name] = status[name] if status[name] == "accepted" else "pending"
        elif step == "unshare":
            sharing.unshare(owner, image, name)
            status[name] = None
        elif step in ("accept", "reject"):
            try:
                ANSWERS[step](members[name], image)
                assert status[name]
                assert active
                status[name] = step + "ed"
            except images.ImageMissingError:
                assert not (status[name] and active)
        elif step == "switch":
            (standing.deactivate if active else standing.activate)(owner, [image])
            active = not active
        elif step == "rekey" and active:
            rekeying.rekey(owner, image, source.choice(("owner", "owner-2")))
        for member, systems_of in members.items():
            try:
                readable = open_bytes(systems_of, image) == disk.read_bytes()
            except images.ImageMissingError:
                readable = False
            assert readable == (active and status[member] == "accepted"), (step, member, status, active)


def test_a_name_of_a_project_tells_that_it_exists_only_to_who_has_an_image_to_share(world, tmp_path):
    image = shared(world, tmp_path)

    with pytest.raises(ProjectMissingError):
        sharing.share(world["owner"], image, "nobody")
    for project in ("third", "nobody"):
        with pytest.raises(images.ImageMissingError):
            sharing.share(world["stranger"], image, project)
