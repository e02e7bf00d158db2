"""The forms of captures and boot proofs."""

from typing import Annotated, ClassVar

from pydantic import Field

from darkroom import proving, rules
from darkroom.capturing import CaptureRequest
from darkroom.proving import ProofRequest
from flows.parameters.base import (
    Description,
    Form,
    Groups,
    SystemBlocks,
    Tags,
    all_projects,
    blocks,
    by,
    description,
    host,
    host_block,
    image,
    new_name,
    new_tags,
    offered,
)
from tasks.systems import host_name


class CaptureServer(Form):
    """Make an image of a server as it is at one instant, while it runs or not."""

    groups: ClassVar[Groups] = {
        "Disks": ("all_disks", "disk", "since"),
        "Description and tags": ("description", "tags"),
        "Placement": ("host", "host_block"),
    }

    server: str = offered(
        "servers",
        title="Server",
        description="A name or an id; or a libvirt domain that others made, if the operator lets the project.",
        min_length=1,
    )
    name: Annotated[str, by(rules.check_name)] = new_name("image")
    key: str = offered("keys", "", title="Encrypt under key", description="A key of the project; none: not encrypted.")
    all_disks: bool = Field(False, title="All disks", description="All at one instant, as a full-server image.")
    disk: str = Field("", title="Disk", description="Its name in the server, such as vdb; empty: the first.")
    since: str = offered(
        "own images",
        "",
        title="Since image",
        description="An earlier capture of this server, to read only what has changed since; none: read all.",
    )
    description: Description = description()
    tags: Tags = new_tags()
    host: str = host("that of the server, or the only one")
    host_block: str = host_block()
    blocks: SystemBlocks = blocks()

    def request(self) -> CaptureRequest:
        """The request that the domain takes."""
        host = host_name(self.host, self.host_block)
        return CaptureRequest(**{**self.model_dump(exclude={"blocks", "host_block"}), "host": host})


class ProveBoot(Form):
    """Boot an image in a throw-away guest without a network, and keep what it showed."""

    image: str = image()
    text: str = Field(
        "",
        title="Text to wait for",
        description="On the serial port; empty: a login prompt, the guest agent, or a screen that stands still.",
    )
    seconds: int = Field(
        600, title="Time limit (s)", description="Within which it must have booted.", ge=1, le=proving.LONGEST
    )
    host: str = host()
    host_block: str = host_block()
    blocks: SystemBlocks = blocks()

    def request(self) -> ProofRequest:
        """The request that the domain takes."""
        return ProofRequest(host_name(self.host, self.host_block), self.text, self.seconds)


class ProveOldest(Form):
    """Boot the images again that were proved longest ago, or never."""

    count: int = Field(3, title="Number of images", description="Of a project, one after another.", ge=1, le=100)
    seconds: int = Field(
        600, title="Time limit (s)", description="Within which each must have booted.", ge=1, le=proving.LONGEST
    )
    host: str = host()
    all_projects: bool = all_projects()
    blocks: SystemBlocks = blocks()
