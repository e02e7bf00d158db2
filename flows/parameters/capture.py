"""The forms of captures and boot proofs."""

from typing import Annotated

from pydantic import Field

from darkroom import proving, rules
from darkroom.capturing import CaptureRequest
from darkroom.proving import ProofRequest
from darkroom.settings import TagLimits
from flows.parameters.base import Form, SystemBlocks, blocks, by, image
from tasks.systems import host_name


class CaptureServer(Form):
    """Make an image of a server as it is at one instant, while it runs or not."""

    server: str = Field(
        title="Server", description="Its name or id; or the name of a libvirt domain that others made", min_length=1
    )
    name: Annotated[str, by(rules.check_name)] = Field(
        title="Name",
        description="Of the image, unique in the project",
        max_length=rules.MAX_NAME,
        json_schema_extra={"pattern": rules.NAME_PATTERN},
    )
    host: str = Field("", title="Compute host", description="Of a domain that others made; empty: the only one")
    host_block: str = Field("", title="Compute host block", description="Names the host where the field above is empty")
    disk: str = Field("", title="Disk", description="Its name in the server, such as vdb; empty: the first")
    all_disks: bool = Field(False, title="All disks", description="All disks at one instant, as a full-server image")
    key: str = Field("", title="Encrypt under key", description="A key of the key manager; empty: not encrypted")
    since: str = Field(
        "", title="Since image", description="An earlier capture of this server: only what has changed since is read"
    )
    description: Annotated[str, by(rules.check_description)] = Field(
        "", title="Description", description="One line", max_length=rules.MAX_DESCRIPTION
    )
    tags: Annotated[dict[str, str], by(rules.check_tags)] = Field(
        {},
        title="Tags",
        description='Keys and values as JSON, such as {"team": "web"}; at most ten',
        json_schema_extra={"maxProperties": TagLimits().count},
    )
    blocks: SystemBlocks = blocks()

    def request(self) -> CaptureRequest:
        """The request that the domain takes."""
        host = host_name(self.host, self.host_block)
        return CaptureRequest(**{**self.model_dump(exclude={"blocks", "host_block"}), "host": host})


class ProveBoot(Form):
    """Boot an image in a throw-away guest without a network, and keep what it showed."""

    image: str = image()
    host: str = Field("", title="Compute host", description="Its name; empty: the only one. Runs on a worker there")
    host_block: str = Field("", title="Compute host block", description="Names the host where the field above is empty")
    text: str = Field(
        "",
        title="Text",
        description="What must appear on the serial port; empty: a login prompt, the guest agent, or a still screen",
    )
    seconds: int = Field(600, title="Time limit (s)", description="To have booted", ge=1, le=proving.LONGEST)
    blocks: SystemBlocks = blocks()

    def request(self) -> ProofRequest:
        """The request that the domain takes."""
        return ProofRequest(host_name(self.host, self.host_block), self.text, self.seconds)


class ProveOldest(Form):
    """Boot the images again that were proved longest ago, or never."""

    count: int = Field(3, title="Images", description="At most so many, one after another", ge=1, le=100)
    host: str = Field("", title="Compute host", description="Its name; empty: the only one. Runs on a worker there")
    seconds: int = Field(600, title="Time limit (s)", description="For each to boot", ge=1, le=proving.LONGEST)
    blocks: SystemBlocks = blocks()
