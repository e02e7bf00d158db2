"""The forms of servers and volumes."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from darkroom import rules
from darkroom.errors import DarkroomError
from darkroom.servers import MAX_CPUS, MAX_USER_DATA, ServerRequest
from darkroom.volumes import VolumeRequest
from flows.parameters.base import (
    Form,
    Groups,
    SystemBlocks,
    all_projects,
    blocks,
    by,
    host,
    host_block,
    image,
    new_name,
    offered,
)
from tasks.systems import host_name


def _server() -> Any:
    return offered("servers", title="Server", description="A name or an id.", min_length=1)


def _volume() -> Any:
    return offered("volumes", title="Volume", description="A name or an id.", min_length=1)


class CreateServer(Form):
    """Start a server from an image; it runs at once, and its disks become whole in the background."""

    groups: ClassVar[Groups] = {
        "First boot": ("ssh_key", "user_data", "network", "boot_mode"),
        "Placement": ("full_copy", "host", "host_block"),
    }

    image: str = image()
    name: Annotated[str, by(rules.check_name)] = new_name("server")
    cpus: int = Field(1, title="Processors", description="Virtual ones.", ge=1, le=MAX_CPUS)
    memory: int = Field(0, title="Memory (MiB)", description="0: what suits the image.", ge=0, le=rules.MAX_RAM)
    disk: int = Field(
        0, title="System disk (GiB)", description="0: the image's own or its minimum; of an ISO 20.", ge=0, le=2048
    )
    ssh_key: str = Field("", title="SSH keys", description="Public keys for cloud-init, one a line.")
    user_data: str = Field(
        "",
        title="User data",
        description="For cloud-init, as it takes it. It is kept with the run: put no secret into it.",
        max_length=MAX_USER_DATA,
    )
    network: str = Field(
        "user", title="Network", description="A network of libvirt; user: out through the host; none: without."
    )
    boot_mode: Literal["", "bios", "uefi"] = Field("", title="Boot mode", description="None: as the image says.")
    full_copy: bool = Field(
        False, title="Full copy", description="Copy the whole image first, then start; off: start at once."
    )
    host: str = host()
    host_block: str = host_block()
    blocks: SystemBlocks = blocks()

    @model_validator(mode="after")
    def _check(self) -> "CreateServer":
        try:
            ServerRequest(**self.model_dump(exclude={"blocks", "host_block"})).check()
        except DarkroomError as error:
            raise ValueError(str(error)) from None
        return self

    def request(self) -> ServerRequest:
        """The request that the domain takes."""
        host = host_name(self.host, self.host_block)
        return ServerRequest(**{**self.model_dump(exclude={"blocks", "host_block"}), "host": host})


class StartServer(Form):
    """Start a server that is stopped."""

    server: str = _server()
    blocks: SystemBlocks = blocks()


class StopServer(Form):
    """Stop a server."""

    server: str = _server()
    force: bool = Field(False, title="Force", description="Do not ask the guest: pull the plug.")
    blocks: SystemBlocks = blocks()


class DeleteServer(Form):
    """Remove a server and its disks, whatever it does; volumes stay."""

    server: str = _server()
    blocks: SystemBlocks = blocks()


class TendServers(Form):
    """Have what hosts need running, and remove what was begun and given up."""

    all_projects: bool = all_projects()
    blocks: SystemBlocks = blocks()


class CreateVolume(Form):
    """Make a volume from an image; it can be attached at once, and becomes whole in the background."""

    groups: ClassVar[Groups] = {
        "Placement": ("full_copy", "host", "host_block"),
    }

    image: str = image()
    name: Annotated[str, by(rules.check_name)] = new_name("volume")
    size: int = Field(0, title="Size (GiB)", description="0: the image's own.", ge=0, le=2048)
    number: int = Field(
        0, title="Disk of the image", description="Of a full-server image, counted from 0: the first.", ge=0, le=63
    )
    attach: str = offered("servers", "", title="Attach to server", description="A name or an id; none: to no server.")
    full_copy: bool = Field(False, title="Full copy", description="Copy the whole image first; off: in the background.")
    host: str = host()
    host_block: str = host_block()
    blocks: SystemBlocks = blocks()

    def request(self) -> VolumeRequest:
        """The request that the domain takes."""
        host = host_name(self.host, self.host_block)
        return VolumeRequest(**{**self.model_dump(exclude={"blocks", "host_block", "attach"}), "host": host})


class AttachVolume(Form):
    """Give a volume to a server of the same host."""

    volume: str = _volume()
    server: str = _server()
    blocks: SystemBlocks = blocks()


class DetachVolume(Form):
    """Take a volume from its server."""

    volume: str = _volume()
    blocks: SystemBlocks = blocks()


class DeleteVolume(Form):
    """Remove a volume that no server has."""

    volume: str = _volume()
    blocks: SystemBlocks = blocks()
