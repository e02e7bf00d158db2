"""Where key-encryption keys are kept."""

from prefect.blocks.core import Block
from pydantic import Field, SecretStr

from darkroom import keys
from darkroom.settings import Settings


class KeyManager(Block):
    """How to reach a key manager. It holds no key."""

    _block_type_name = "Darkroom key manager"
    _block_type_slug = "darkroom-key-manager"

    url: str = Field(title="URL", description="aws-kms://[region], or the path of a key file on the workers")
    endpoint_url: str = Field("", title="Endpoint", description="Of a KMS server other than AWS")
    access_key_id: str = Field("", title="Access key id", description="Empty: the usual ways of boto3")
    secret_access_key: SecretStr = Field(SecretStr(""), title="Secret access key", description="To the access key id")

    def open(self, project: str) -> keys.KeyManager:
        """The key manager, opened for a project."""
        secret = self.secret_access_key.get_secret_value()
        credentials = (self.access_key_id, secret) if self.access_key_id else None
        return keys.open_keys(self.url, Settings(project=project, kms_endpoint_url=self.endpoint_url), credentials)
