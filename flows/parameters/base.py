"""What all forms have: the domain's rules as validators, names that the form offers, and the systems to use."""

from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from darkroom import rules
from darkroom.errors import DarkroomError
from darkroom.settings import TagLimits
from tasks.systems import Blocks

Groups = dict[str, tuple[str, ...]]


class Form(BaseModel):
    """A form takes no field that it does not know.

    `groups` are the fields that the UI shows together, by the title of the group. Each is taken in an object of that
    title, or by itself.
    """

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=False)
    groups: ClassVar[Groups] = {}

    @model_validator(mode="before")
    @classmethod
    def _ungrouped(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        alone = {name: one for name, one in value.items() if name not in cls.groups}
        return alone | {name: one for group in cls.groups for name, one in (value.get(group) or {}).items()}

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler.resolve_ref_schema(handler(core))
        return schema | {"groups": cls.groups} if cls.groups else schema


def by(rule: Any) -> AfterValidator:
    """The rule of the domain as a validator of a form, in the same words."""

    def check(value: Any) -> Any:
        try:
            rule(value)
        except DarkroomError as error:
            raise ValueError(str(error)) from None
        return value

    return AfterValidator(check)


def _lines(value: Any) -> Any:
    """A text as the list of its lines; anything else as it is."""
    return [line.strip() for line in value.splitlines() if line.strip()] if isinstance(value, str) else value


Names = Annotated[list[str], BeforeValidator(_lines)]
"""A list of names, or a text with one a line."""


def offered(kind: str, *default: Any, **told: Any) -> Any:
    """A field whose form offers the names of a kind (`darkroom.choices`), and takes any other: `offers` says how."""
    return Field(*default, json_schema_extra={"choices": kind}, **told)


class SystemBlocks(Form):
    """Prefect blocks to use in place of what the worker's environment says."""

    catalog: str = offered("darkroom-catalog", "", title="Catalog block", description="None: the worker's own catalog.")
    object_store: str = offered(
        "darkroom-object-store", "", title="Object store block", description="None: the worker's own store."
    )
    key_manager: str = offered(
        "darkroom-key-manager", "", title="Key manager block", description="None: the worker's own keys."
    )
    project: str = offered("darkroom-project", "", title="Project block", description="None: the worker's own project.")

    def names(self) -> Blocks:
        """The names, as tasks take them."""
        return Blocks(**self.model_dump())


def blocks() -> Any:
    """The field of a form that names the systems."""
    return Field(
        default_factory=SystemBlocks,
        title="Systems",
        description="Prefect blocks that stand in for what the worker's environment says.",
    )


def image(kind: str = "usable images") -> Any:
    """The field of a form that names an image."""
    description = "A name, a family, an id, or the beginning of an id."
    return offered(kind, title="Image", description=description, min_length=1)


def images(kind: str = "own images") -> Any:
    """The field of a form that names one image or many."""
    description = "A name, a family, an id or the beginning of an id each; written, one a line."
    return offered(kind, title="Images", description=description, min_length=1)


def new_name(of: str) -> Any:
    """The field of a form that gives a name."""
    return Field(
        title="Name",
        description=f"Of the {of}, unique in the project: letters, digits, dots, dashes, underscores and spaces.",
        max_length=rules.MAX_NAME,
        json_schema_extra={"pattern": rules.NAME_PATTERN},
    )


Description = Annotated[str, by(rules.check_description)]
Tags = Annotated[dict[str, str], by(rules.check_tags)]


def description(empty: str = "") -> Any:
    """The field of a form that describes an image; `empty` says what none means."""
    told = f"One line; empty: {empty}." if empty else "One line."
    return Field("", title="Description", description=told, max_length=rules.MAX_DESCRIPTION)


def new_tags() -> Any:
    """The field of a form that gives a new image its tags."""
    return Field(
        {},
        title="Tags",
        description='Keys and values as JSON, such as {"team": "web"}.',
        json_schema_extra={"maxProperties": TagLimits().count},
    )


def host(default: str = "the only one") -> Any:
    """The field of a form that names a compute host."""
    return offered("hosts", "", title="Compute host", description=f"None: {default}.")


def host_block() -> Any:
    """The field of a form that names a compute host by a block."""
    return offered(
        "darkroom-compute-host",
        "",
        title="Compute host block",
        description="A Prefect block that names the host, where none is given above.",
    )


def all_projects() -> Any:
    """The field of a form that extends an operation to all projects."""
    return Field(
        False, title="All projects", description="For the operator, whose catalog account sees the rows of all."
    )
