"""What all forms have: the domain's rules as validators, and the systems to use."""

from typing import Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from darkroom.errors import DarkroomError
from tasks.systems import Blocks


class Form(BaseModel):
    """A form takes no field that it does not know."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=False)


def by(rule: Any) -> AfterValidator:
    """The rule of the domain as a validator of a form, in the same words."""

    def check(value: Any) -> Any:
        try:
            rule(value)
        except DarkroomError as error:
            raise ValueError(str(error)) from None
        return value

    return AfterValidator(check)


class SystemBlocks(Form):
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


def blocks() -> Any:
    """The field of a form that names the systems."""
    return Field(default_factory=SystemBlocks, title="Systems", description="Prefect blocks to use")


def image() -> Any:
    """The field of a form that names an image."""
    return Field(title="Image", description="An id, an unambiguous prefix of one, a name, or a family", min_length=1)


def images() -> Any:
    """The field of a form that names one image or many."""
    return Field(
        title="Images", description="An id, an unambiguous prefix of one, a name, or a family each", min_length=1
    )
