"""The parameters of the flows, which the Prefect UI shows as forms."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from darkroom import rules, sources
from darkroom.errors import DarkroomError
from darkroom.importing import ImportRequest
from tasks.systems import Blocks


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=False)


def _by(rule: Any) -> AfterValidator:
    """The rule of the domain as a validator of a form, in the same words."""

    def check(value: Any) -> Any:
        try:
            rule(value)
        except DarkroomError as error:
            raise ValueError(str(error)) from None
        return value

    return AfterValidator(check)


class SystemBlocks(_Form):
    """Prefect blocks to use in place of what the worker's environment says."""

    catalog: str = Field("", title="Catalog block", description="Name of a Catalog block; empty: the worker's own")
    object_store: str = Field(
        "", title="Object store block", description="Name of an Object store block; empty: the worker's own"
    )
    key_manager: str = Field(
        "", title="Key manager block", description="Name of a Key manager block; empty: the worker's own"
    )
    project: str = Field("", title="Project block", description="Name of a Project block; empty: the worker's own")

    def names(self) -> Blocks:
        """The names, as tasks take them."""
        return Blocks(**self.model_dump())


class ImportImage(_Form):
    """Import a disk image file as a private image."""

    source: str = Field(
        title="Source",
        description="A path on the worker, s3://bucket/key, http(s)://… or nbd://…; any common format, or compressed",
        min_length=1,
    )
    name: Annotated[str, _by(rules.check_name)] = Field(
        title="Name",
        description="Unique in the project",
        max_length=rules.MAX_NAME,
        json_schema_extra={"pattern": rules.NAME_PATTERN},
    )
    key: str = Field("", title="Encrypt under key", description="A key of the key manager; empty: not encrypted")
    type: Literal["system", "data"] = Field("system", title="Type", description="A disk that boots, or one with data")
    format: Literal["", "raw", "qcow2", "qcow", "qed", "vmdk", "vhd", "vhdx", "vdi"] = Field(
        "", title="Format", description="What the file must be; empty: its name tells, or its header"
    )
    digest: Annotated[str, _by(sources.check_digest)] = Field(
        "", title="Publisher's digest", description="Such as sha256:… ; the import fails if the file has another"
    )
    os_type: Literal["Linux", "Windows", "Other"] = Field("Other", title="Operating system", description="Its family")
    os_version: str = Field("", title="Version of the system", description="Such as Debian 12")
    min_disk: int = Field(0, title="Minimum disk (GiB)", description="0: the disk's own size", ge=0, le=2048)
    min_ram: int = Field(0, title="Minimum memory (MiB)", description="0: no minimum", ge=0, le=rules.MAX_RAM)
    max_ram: int = Field(0, title="Maximum memory (MiB)", description="0: no maximum", ge=0, le=rules.MAX_RAM)
    description: Annotated[str, _by(rules.check_description)] = Field(
        "", title="Description", description="One line", max_length=rules.MAX_DESCRIPTION
    )
    tags: Annotated[dict[str, str], _by(rules.check_tags)] = Field(
        {},
        title="Tags",
        description='Keys and values as JSON, such as {"team": "web"}; at most ten',
        json_schema_extra={"maxProperties": rules.MAX_TAGS},
    )
    quick: bool = Field(False, title="Quick import", description="Do not read back what was stored")
    blocks: SystemBlocks = Field(default_factory=SystemBlocks, title="Systems", description="Prefect blocks to use")

    @model_validator(mode="after")
    def _check(self) -> "ImportImage":
        try:
            self.request().check()
        except DarkroomError as error:
            raise ValueError(str(error)) from None
        return self

    def request(self) -> ImportRequest:
        """The request that the domain takes."""
        return ImportRequest(**self.model_dump(exclude={"blocks"}))


class ExportImage(_Form):
    """Write an image to a file or an object, with its SHA-256 beside it."""

    image: str = Field(title="Image", description="An id, an unambiguous prefix of one, or a name", min_length=1)
    target: str = Field(
        title="Target", description="A path on the worker or s3://bucket/key; it must not exist", min_length=1
    )
    format: Literal["qcow2", "raw", "vmdk", "vhd", "vhdx", "vdi"] = Field(
        "qcow2", title="Format", description="Of the file"
    )
    blocks: SystemBlocks = Field(default_factory=SystemBlocks, title="Systems", description="Prefect blocks to use")


class RekeyImage(_Form):
    """Put an encrypted image under another key; no data is rewritten."""

    image: str = Field(title="Image", description="An id, an unambiguous prefix of one, or a name", min_length=1)
    key: str = Field(title="New key", description="A key of the key manager", min_length=1)
    blocks: SystemBlocks = Field(default_factory=SystemBlocks, title="Systems", description="Prefect blocks to use")


class ReapImages(_Form):
    """Kill images whose import was given up."""

    blocks: SystemBlocks = Field(default_factory=SystemBlocks, title="Systems", description="Prefect blocks to use")
