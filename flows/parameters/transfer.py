"""The forms of import and export."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from darkroom import rules, sources
from darkroom.errors import DarkroomError
from darkroom.importing import ImportRequest
from flows.parameters.base import (
    Description,
    Form,
    Groups,
    SystemBlocks,
    Tags,
    blocks,
    by,
    description,
    host,
    image,
    new_name,
    new_tags,
    offered,
)


class ImportImage(Form):
    """Import a disk image file as a private image."""

    groups: ClassVar[Groups] = {
        "Description and tags": ("description", "tags", "os_type", "os_version"),
        "Servers made of it": ("min_disk", "min_ram", "max_ram"),
        "Checks": ("format", "digest", "quick", "prove_boot", "host"),
    }

    source: str = Field(
        title="Source",
        description="A path on the worker, s3://bucket/key, http(s)://… or nbd://…; any common format, or compressed.",
        min_length=1,
    )
    name: Annotated[str, by(rules.check_name)] = new_name("image")
    key: str = offered("keys", "", title="Encrypt under key", description="A key of the project; none: not encrypted.")
    type: Literal["system", "data"] = Field("system", title="Type", description="A disk that boots, or one with data.")
    description: Description = description()
    tags: Tags = new_tags()
    os_type: Literal["Linux", "Windows", "Other"] = Field(
        "Other", title="Operating system", description="The family of the guest's."
    )
    os_version: str = Field("", title="Version of the system", description="Such as Debian 12.")
    min_disk: int = Field(0, title="Minimum disk (GiB)", description="0: the disk's own size.", ge=0, le=2048)
    min_ram: int = Field(0, title="Minimum memory (MiB)", description="0: no minimum.", ge=0, le=rules.MAX_RAM)
    max_ram: int = Field(0, title="Maximum memory (MiB)", description="0: no maximum.", ge=0, le=rules.MAX_RAM)
    format: Literal["", "raw", "qcow2", "qcow", "qed", "vmdk", "vhd", "vhdx", "vdi", "iso"] = Field(
        "", title="Format", description="What the file must be; none: its name tells, or its header."
    )
    digest: Annotated[str, by(sources.check_digest)] = Field(
        "", title="Publisher's digest", description="Such as sha256:…; the import fails if the file has another."
    )
    quick: bool = Field(False, title="Quick import", description="Do not read back what was stored.")
    prove_boot: bool = Field(False, title="Prove boot", description="Boot it first; what does not boot is no image.")
    host: str = host("the only one, if it is to boot")
    blocks: SystemBlocks = blocks()

    @model_validator(mode="after")
    def _check(self) -> "ImportImage":
        try:
            self.request().check()
        except DarkroomError as error:
            raise ValueError(str(error)) from None
        return self

    def request(self) -> ImportRequest:
        """The request that the domain takes."""
        return ImportRequest(**self.model_dump(exclude={"blocks", "prove_boot", "host"}))


class ExportImage(Form):
    """Write an image to a file or an object, with its SHA-256 beside it."""

    image: str = image()
    target: str = Field(
        title="Target",
        description="A path on the worker or s3://bucket/key, which must not exist; of a full-server image a folder "
        "is made, or one file if the name ends in .ova.",
        min_length=1,
    )
    format: Literal["", "qcow2", "raw", "vmdk", "vhd", "vhdx", "vdi"] = Field(
        "", title="Format", description="Of each file; none: qcow2, of a full-server image vmdk, of an ISO raw."
    )
    blocks: SystemBlocks = blocks()
