"""Where objects are kept."""

from prefect.blocks.core import Block
from pydantic import Field, SecretStr

from darkroom import store
from darkroom.settings import Settings
from darkroom.store import Store


class ObjectStore(Block):
    """A directory or an S3 bucket."""

    _block_type_name = "Darkroom object store"
    _block_type_slug = "darkroom-object-store"

    url: str = Field(title="URL", description="s3://bucket/prefix, or a directory on the workers")
    endpoint_url: str = Field("", title="Endpoint", description="Of an S3 server other than AWS")
    access_key_id: str = Field("", title="Access key id", description="Empty: the usual ways of boto3")
    secret_access_key: SecretStr = Field(SecretStr(""), title="Secret access key", description="To the access key id")

    def open(self) -> Store:
        """The object store."""
        secret = self.secret_access_key.get_secret_value()
        credentials = (self.access_key_id, secret) if self.access_key_id else None
        return store.open_store(self.url, Settings(s3_endpoint_url=self.endpoint_url), credentials)
