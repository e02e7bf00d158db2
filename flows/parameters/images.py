"""The forms of what people decide about images."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from darkroom import rules
from darkroom.modifying import Changes
from flows.parameters.base import (
    Description,
    Form,
    Groups,
    Names,
    SystemBlocks,
    Tags,
    blocks,
    by,
    description,
    images,
    offered,
)

Switch = Literal["as it is", "on", "off"]
Clearable = Literal["description", "min_ram", "max_ram", "min_disk", "boot_mode", "family"]
_AS_IT_IS = "empty: as it is."


def _name(value: str) -> None:
    if value:
        rules.check_name(value)


def _family(value: str) -> None:
    if value:
        rules.check_family(value)


class ModifyImages(Form):
    """Change what is written on images, and what servers are to be made of them by."""

    groups: ClassVar[Groups] = {
        "Servers made of them": ("min_disk", "min_ram", "max_ram", "boot_mode", "multiqueue", "sriov"),
        "Properties of your own": ("set", "unset"),
    }

    images: Names = images()
    name: Annotated[str, by(_name)] = Field(
        "", title="New name", description="Of one image; empty: as it is.", max_length=rules.MAX_NAME
    )
    description: Description = description("as it is")
    family: Annotated[str, by(_family)] = offered(
        "families", "", title="Family", description="None: as it is.", max_length=rules.MAX_NAME
    )
    protect: Switch = Field("as it is", title="Protected", description="A protected image cannot be deleted.")
    clear: list[Clearable] = Field([], title="Clear", description="Fields to empty.")
    version: int = Field(0, title="Version", description="The one that the image must have; 0: any.", ge=0)
    min_disk: int = Field(0, title="Minimum disk (GiB)", description="0: as it is.", ge=0, le=2048)
    min_ram: int = Field(0, title="Minimum memory (MiB)", description="0: as it is.", ge=0, le=rules.MAX_RAM)
    max_ram: int = Field(0, title="Maximum memory (MiB)", description="0: as it is.", ge=0, le=rules.MAX_RAM)
    boot_mode: Literal["", "bios", "uefi"] = Field("", title="Boot mode", description="None: as it is.")
    multiqueue: Switch = Field("as it is", title="Multi-queue", description="Several queues a network interface.")
    sriov: Switch = Field("as it is", title="SR-IOV", description="Network interfaces by SR-IOV.")
    set: Annotated[dict[str, str], by(rules.check_custom)] = Field(
        {}, title="Set properties", description='Properties of your own as JSON, such as {"owner": "web team"}.'
    )
    unset: Names = Field([], title="Unset properties", description="Names of properties of your own to take away.")
    blocks: SystemBlocks = blocks()

    @model_validator(mode="after")
    def _check(self) -> "ModifyImages":
        if len(self.images) > 1 and (self.name or self.version):
            raise ValueError("a name or a version is for one image")
        if twice := {*self.clear} & self._given().keys() or {*self.set} & {*self.unset}:
            raise ValueError(f"given and taken away at once: {', '.join(sorted(twice))}")
        return self

    def _given(self) -> dict[str, Any]:
        names = ("name", "description", "min_ram", "max_ram", "min_disk", "boot_mode", "family")
        given = {name: getattr(self, name) for name in names if getattr(self, name)}
        switches = {"multiqueue": self.multiqueue, "sriov": self.sriov, "protected": self.protect}
        return given | {name: value == "on" for name, value in switches.items() if value != "as it is"}

    def changes(self) -> Changes:
        """The changes that the domain takes."""
        return Changes(self._given() | dict.fromkeys(self.clear), self.set, self.unset, self.version)


class TagImages(Form):
    """Give tags to images, and take tags away."""

    images: Names = images()
    tags: Tags = Field({}, title="Tags", description='Keys and values as JSON, such as {"team": "web"}.')
    remove: Names = offered("tags", [], title="Take away", description="Keys of tags; written, one a line.")
    blocks: SystemBlocks = blocks()

    @model_validator(mode="after")
    def _check(self) -> "TagImages":
        if twice := {*self.tags} & {*self.remove}:
            raise ValueError(f"given and taken away at once: {', '.join(sorted(twice))}")
        return self


class DeprecateImages(Form):
    """Mark images as not to be used for anything new, or take that mark away."""

    images: Names = images()
    replaced_by: str = offered(
        "own images", "", title="Replaced by", description="The image to use instead; none: no other is named."
    )
    undo: bool = Field(False, title="Undo", description="Take the mark away.")
    blocks: SystemBlocks = blocks()


class DeactivateImages(Form):
    """Make images unusable."""

    images: Names = images("active images")
    blocks: SystemBlocks = blocks()


class ActivateImages(Form):
    """Make images usable again."""

    images: Names = images("deactivated images")
    blocks: SystemBlocks = blocks()
