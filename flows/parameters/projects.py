"""The forms of what a project sets for itself."""

from pydantic import Field

from flows.parameters.base import Form, SystemBlocks, blocks, offered


class MoveInbox(Form):
    """Choose the key under which the project receives the data keys of encrypted images that others share."""

    key: str = offered("keys", title="Key", description="A key of the project.", min_length=1)
    renew: bool = Field(
        False,
        title="A new inbox",
        description="For when the key of the old one is lost: what waits in that must be shared again.",
    )
    blocks: SystemBlocks = blocks()


class TrustOwner(Form):
    """Accept at once what another project shares, or be asked again."""

    owner: str = offered("projects", title="Owner", description="The project that shares.", min_length=1)
    trusted: bool = Field(True, title="Accept at once", description="Off: ask again from now on.")
    blocks: SystemBlocks = blocks()
