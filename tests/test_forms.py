"""The parameters of the flows, as the Prefect UI shows them and as a run takes them."""

import importlib
import re

import jsonschema
import pytest
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate
from pydantic import ValidationError

import blocks
from darkroom import choices, rules
from darkroom.errors import DarkroomError
from deployments import apply
from flows.import_image import import_image
from flows.parameters import offers
from flows.parameters.images import TagImages
from flows.parameters.transfer import ExportImage, ImportImage
from flows.share_image import share_image

SMALLEST = {"source": "/disks/web.vmdk", "name": "web-1"}
REQUIRED = {
    "source name": ["ImportImage"],
    "source": ["MigrateImages"],
    "image target": ["ExportImage"],
    "image projects": ["ShareImage", "UnshareImage"],
    "image key": ["RekeyImage"],
    "image name": ["ReplicateImage", "CreateServer", "CreateVolume"],
    "image": ["RestoreImage", "CancelImage", "AnswerShare", "ProveBoot"],
    "images": ["DeleteImages", "ModifyImages", "TagImages", "DeprecateImages", "DeactivateImages", "ActivateImages"],
    "batch": ["HelpMigration"],
    "key": ["RotateKey", "CreateKey", "SwitchKey", "MoveInbox"],
    "owner": ["TrustOwner"],
    "server name": ["CaptureServer"],
    "server": ["StartServer", "StopServer", "DeleteServer"],
    "volume server": ["AttachVolume"],
    "volume": ["DetachVolume", "DeleteVolume"],
}
"""Fields without a sensible default, and the forms that have these; those of other forms all have one."""
NAMING = {"image", "images", "server", "volume", "host", "host_block", "owner", "projects", "family", "attach", "since"}
NAMING |= {"replaced_by", "batch", "catalog", "object_store", "key_manager", "project"}
"""Fields that name something that is there."""


def flow_of(entry):
    module, _, name = entry["entrypoint"].rpartition(".")
    return getattr(importlib.import_module(module), name)


FLOWS = [flow_of(entry) for entry in apply.declared()]


def schema_of(flow) -> dict:
    return parameter_schema(flow.fn).model_dump_for_openapi()


def fields_of(flow):
    for form in schema_of(flow)["definitions"].values():
        for name, field in form["properties"].items():
            yield f"{form['title']}.{name}", field


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_every_form_and_field_is_told_in_words_for_people(flow):
    fields = dict(fields_of(flow))
    told = [form["description"] for form in schema_of(flow)["definitions"].values()]

    assert len(fields) > 1
    assert [name for name, field in fields.items() if not re.fullmatch(r"[A-Z][^_]+", field.get("title", ""))] == []
    assert [name for name, field in fields.items() if not re.fullmatch(r"\S.+\.", field.get("description", ""))] == []
    assert [description for description in told if not re.fullmatch(r"[A-Z].+\.", description)] == []


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_a_field_that_names_what_there_is_offers_it(flow):
    fields = {name: field for name, field in fields_of(flow) if "choices" in field}
    known = {"key", *NAMING} - ({"key"} if flow.name == "create-key" else set())

    assert fields.keys() >= {name for name, _ in fields_of(flow) if name.partition(".")[2] in known}
    assert {field["type"] for field in fields.values()} <= {"string", "array"}


def test_what_fields_offer_is_what_there_are_names_of(to):
    kinds = {field["choices"] for flow in FLOWS for _, field in fields_of(flow) if "choices" in field}
    slugs = {getattr(blocks, name).get_block_type_slug() for name in blocks.__all__}

    assert kinds == choices.present(to).keys() | slugs


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_no_field_renders_as_a_switch_of_types(flow):
    assert [name for name, field in fields_of(flow) if {"anyOf", "oneOf"} & field.keys()] == []
    assert "null" not in re.findall(r"'type': '(\w+)'", str(schema_of(flow)))


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_only_what_has_no_sensible_default_is_required(flow):
    required = {form["title"]: form.get("required", []) for form in schema_of(flow)["definitions"].values()}

    expected = {form: fields.split() for fields, forms in REQUIRED.items() for form in forms}
    assert required == {form: expected.get(form, []) for form in required}


def test_a_field_without_names_to_offer_takes_text_alone():
    plain = schema_of(import_image)

    offered = offers.offer(plain, {})["definitions"]["ImportImage"]["properties"]
    assert offered["key"] == plain["definitions"]["ImportImage"]["properties"]["key"]
    assert offered["Checks"]["properties"]["host"] == plain["definitions"]["ImportImage"]["properties"]["host"]


@pytest.mark.parametrize("names", [[], ["gold", "silver"]])
@pytest.mark.parametrize(("key", "allowed"), [("gold", True), ("made-since", True), (None, True), (7, False)])
def test_one_name_is_chosen_or_written(names, key, allowed):
    schema = offers.offer(schema_of(import_image), {"keys": names})
    request = {**SMALLEST, **({} if key is None else {"key": key})}

    assert (not validate({"request": request}, schema)) == allowed
    assert "default" not in schema["definitions"]["ImportImage"]["properties"]["key"] or not names


@pytest.mark.parametrize("names", [[], ["acme", "umbrella"]])
@pytest.mark.parametrize(
    ("projects", "allowed"),
    [
        (["acme"], True),
        (["acme", "made-since"], True),
        ("acme\nmade-since", True),
        ([], False),
        ("", False),
        ([7], False),
    ],
)
def test_many_names_are_chosen_or_written_one_a_line(names, projects, allowed):
    schema = offers.offer(schema_of(share_image), {"projects": names})

    assert (not validate({"request": {"image": "web-1", "projects": projects}}, schema)) == allowed


def test_grouped_fields_are_taken_in_their_group_and_alone():
    schema = offers.offer(schema_of(import_image), {"hosts": ["kvm1"]})
    grouped = {**SMALLEST, "Checks": {"format": "raw", "host": "kvm1"}, "Servers made of it": {"min_ram": 512}}
    alone = {**SMALLEST, "format": "raw", "host": "kvm1", "min_ram": 512}

    assert validate({"request": grouped}, schema) == validate({"request": alone}, schema) == []
    assert ImportImage(**grouped) == ImportImage(**alone)
    for wrong in ({"Checks": {"formt": "raw"}}, {"formt": "raw"}, {"Checks": {"format": 1}}, {"format": "zvhd"}):
        assert validate({"request": SMALLEST | wrong}, schema)
        with pytest.raises(ValidationError):
            ImportImage(**SMALLEST, **wrong)


def test_groups_are_of_fields_that_there_are():
    for flow in FLOWS:
        for form in schema_of(flow)["definitions"].values():
            grouped = [name for names in form.get("groups", {}).values() for name in names]
            assert set(grouped) <= form["properties"].keys() - set(form.get("required", []))
            assert len(set(grouped)) == len(grouped)


def test_lines_are_names():
    form = TagImages(images=" web-1\n\nweb 2 \n", tags={"a": "b"})

    assert form.images == ["web-1", "web 2"]
    with pytest.raises(ValidationError, match="at least 1 item"):
        TagImages(images=" \n")


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
