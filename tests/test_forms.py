"""The parameters of the flows, as the Prefect UI shows them and as a run takes them."""

import re

import jsonschema
import pytest
from prefect.utilities.callables import parameter_schema
from pydantic import ValidationError

from darkroom import rules
from darkroom.errors import DarkroomError
from flows.activate_images import activate_images
from flows.answer_share import answer_share
from flows.apply_policy import apply_policy
from flows.attach_volume import attach_volume
from flows.cancel_image import cancel_image
from flows.capture_server import capture_server
from flows.check_images import check_images
from flows.collect_garbage import collect_garbage
from flows.create_key import create_key
from flows.create_server import create_server
from flows.create_volume import create_volume
from flows.deactivate_images import deactivate_images
from flows.delete_images import delete_images
from flows.delete_server import delete_server
from flows.delete_volume import delete_volume
from flows.deprecate_images import deprecate_images
from flows.detach_volume import detach_volume
from flows.disable_key import disable_key
from flows.enable_key import enable_key
from flows.export_image import export_image
from flows.import_image import import_image
from flows.migrate_images import migrate_images
from flows.modify_images import modify_images
from flows.move_inbox import move_inbox
from flows.parameters.transfer import ExportImage, ImportImage
from flows.prove_boot import prove_boot
from flows.prove_oldest import prove_oldest
from flows.purge_images import purge_images
from flows.reap_images import reap_images
from flows.rebuild_catalog import rebuild_catalog
from flows.rekey_image import rekey_image
from flows.replicate_image import replicate_image
from flows.report_images import report_images
from flows.restore_image import restore_image
from flows.rotate_key import rotate_key
from flows.share_image import share_image
from flows.start_server import start_server
from flows.stop_server import stop_server
from flows.tag_images import tag_images
from flows.tend_servers import tend_servers
from flows.trust_owner import trust_owner
from flows.unshare_image import unshare_image

MANAGED = [modify_images, tag_images, deprecate_images, deactivate_images, activate_images]
KEPT = [report_images, apply_policy, check_images]
IMAGES_FORMS = ("ModifyImages", "TagImages", "DeprecateImages", "SwitchImages")
FLOWS = [
    import_image,
    export_image,
    migrate_images,
    delete_images,
    restore_image,
    purge_images,
    cancel_image,
    reap_images,
    *MANAGED,
    *KEPT,
    collect_garbage,
    rebuild_catalog,
    share_image,
    unshare_image,
    answer_share,
    create_server,
    create_volume,
    attach_volume,
    detach_volume,
    delete_server,
    delete_volume,
    start_server,
    stop_server,
    tend_servers,
    replicate_image,
    rekey_image,
    rotate_key,
    create_key,
    disable_key,
    enable_key,
    move_inbox,
    trust_owner,
    capture_server,
    prove_boot,
    prove_oldest,
]
SMALLEST = {"source": "/disks/web.vmdk", "name": "web-1"}


def schema_of(flow) -> dict:
    return parameter_schema(flow.fn).model_dump_for_openapi()


def fields_of(flow):
    for form in schema_of(flow)["definitions"].values():
        for name, field in form["properties"].items():
            yield f"{form['title']}.{name}", field


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_every_field_has_a_title_and_a_description(flow):
    fields = dict(fields_of(flow))

    assert len(fields) > 1
    assert [name for name, field in fields.items() if not (field.get("title") and field.get("description"))] == []


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_no_field_renders_as_a_switch_of_types(flow):
    assert [name for name, field in fields_of(flow) if {"anyOf", "oneOf"} & field.keys()] == []
    assert "null" not in re.findall(r"'type': '(\w+)'", str(schema_of(flow)))


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_only_what_has_no_sensible_default_is_required(flow):
    required = {form["title"]: form.get("required", []) for form in schema_of(flow)["definitions"].values()}

    assert required in (
        {"ImportImage": ["source", "name"], "SystemBlocks": []},
        {"ExportImage": ["image", "target"], "SystemBlocks": []},
        {"DeleteImages": ["images"], "SystemBlocks": []},
        {"RestoreImage": ["image"], "SystemBlocks": []},
        {"PurgeImages": [], "SystemBlocks": []},
        {"CancelImage": ["image"], "SystemBlocks": []},
        {"ReapImages": [], "SystemBlocks": []},
        {"CollectGarbage": [], "SystemBlocks": []},
        {"RebuildCatalog": [], "SystemBlocks": []},
        {"ShareImage": ["image", "projects"], "SystemBlocks": []},
        {"AnswerShare": ["image"], "SystemBlocks": []},
        {"MigrateImages": ["source"], "SystemBlocks": []},
        {"ReplicateImage": ["image", "name"], "SystemBlocks": []},
        {"RekeyImage": ["image", "key"], "SystemBlocks": []},
        *({form: ["key"], "SystemBlocks": []} for form in ("RotateKey", "CreateKey", "SwitchKey", "MoveInbox")),
        {"TrustOwner": ["owner"], "SystemBlocks": []},
        *({form: ["images"], "SystemBlocks": []} for form in IMAGES_FORMS),
        *({form: [], "SystemBlocks": []} for form in ("ReportImages", "ApplyPolicy", "CheckImages")),
        {"CreateServer": ["image", "name"], "SystemBlocks": []},
        {"StartServer": ["server"], "SystemBlocks": []},
        {"StopServer": ["server"], "SystemBlocks": []},
        {"DeleteServer": ["server"], "SystemBlocks": []},
        {"TendServers": [], "SystemBlocks": []},
        {"CreateVolume": ["image", "name"], "SystemBlocks": []},
        {"AttachVolume": ["volume", "server"], "SystemBlocks": []},
        {"DetachVolume": ["volume"], "SystemBlocks": []},
        {"DeleteVolume": ["volume"], "SystemBlocks": []},
        {"CaptureServer": ["server", "name"], "SystemBlocks": []},
        {"ProveBoot": ["image"], "SystemBlocks": []},
        {"ProveOldest": [], "SystemBlocks": []},
    )


@pytest.mark.parametrize("name", ["web-1", "a", "a b", "x" * 128, "", " a", "a/b", "x" * 129])
def test_the_form_refuses_the_names_that_the_rules_refuse(name):
    """The server checks a form against its schema, before there is a run."""
    try:
        rules.check_name(name)
        allowed = True
    except DarkroomError:
        allowed = False

    checker = jsonschema.Draft202012Validator(schema_of(import_image))

    assert checker.is_valid({"request": {**SMALLEST, "name": name}}) == allowed


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("name", "a/b", "name-invalid"),
        ("description", "a\nb", "description-invalid"),
        ("tags", {"a b": "c"}, "tag-invalid"),
        ("digest", "sha256:12", "digest"),
        ("min_disk", 1500, "min-disk-invalid"),
    ],
)
def test_a_broken_rule_is_refused_in_the_words_of_the_command_line(field, value, code):
    with pytest.raises(ValidationError, match=f"{code}.*: ") as caught:
        ImportImage(**{**SMALLEST, field: value})

    assert len(caught.value.errors()) == 1


def test_more_memory_at_least_than_at_most_is_refused():
    with pytest.raises(ValidationError, match="memory-invalid: "):
        ImportImage(**SMALLEST, min_ram=2048, max_ram=1024)


def test_a_field_that_does_not_exist_is_refused():
    with pytest.raises(ValidationError, match="Extra inputs"):
        ExportImage(image="web-1", target="/out.qcow2", fromat="raw")


def test_the_smallest_form_asks_for_a_plain_system_image():
    request = ImportImage(**SMALLEST).request()

    assert (request.source, request.name) == ("/disks/web.vmdk", "web-1")
    assert (request.key, request.type, request.format, request.digest, request.tags) == ("", "system", "", "", {})
