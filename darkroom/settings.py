"""Configuration, from the environment alone; every default lies below `DARKROOM_HOME`."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from darkroom.model import TiB


def _env(name: str, default: str) -> str:
    return os.environ.get(name) or default


def _home() -> Path:
    return Path(_env("DARKROOM_HOME", "~/.darkroom")).expanduser().absolute()


@dataclass(frozen=True, slots=True)
class Limits:
    """What a source may cost at most."""

    virtual_size: int = 16 * TiB
    """Largest disk accepted, in bytes."""
    expansion: int = 1000
    """Largest ratio of bytes that come out of a compressed container to bytes that went in."""
    header_size: int = 64 * 1024 * 1024
    """Most bytes of metadata (tables, descriptors) read while a file is inspected."""


@dataclass(frozen=True, slots=True)
class TagLimits:
    """How many tags an image may have, and of what; those of the Image Management Service by default."""

    count: int = field(default_factory=lambda: int(_env("DARKROOM_TAG_COUNT", "10")))
    key: int = field(default_factory=lambda: int(_env("DARKROOM_TAG_KEY_LENGTH", "36")))
    value: int = field(default_factory=lambda: int(_env("DARKROOM_TAG_VALUE_LENGTH", "43")))
    characters: str = field(default_factory=lambda: _env("DARKROOM_TAG_CHARACTERS", ""))
    """Allowed beside letters, digits, dashes and underscores."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the four systems are. URLs may carry credentials; use `redacted()` of the system to show one."""

    home: Path = field(default_factory=_home)
    project: str = field(default_factory=lambda: _env("DARKROOM_PROJECT", ""))
    """Empty: the project whose own account the catalog's DSN names, else `default`."""
    catalog_url: str = field(default_factory=lambda: _env("DARKROOM_CATALOG_URL", ""))
    """A Postgres DSN with the right to create roles, or of a project's own account; empty: the embedded server."""
    store_url: str = field(default_factory=lambda: _env("DARKROOM_STORE_URL", ""))
    """`s3://bucket/prefix` or a directory; empty: `home/store`."""
    keys_url: str = field(default_factory=lambda: _env("DARKROOM_KEYS_URL", ""))
    """A file of the local key manager, or `aws-kms://[region]`; empty: `home/keys.json`."""
    kms_endpoint_url: str = field(default_factory=lambda: _env("DARKROOM_KMS_ENDPOINT_URL", ""))
    s3_endpoint_url: str = field(default_factory=lambda: _env("DARKROOM_S3_ENDPOINT_URL", ""))
    private_addresses: bool = field(default_factory=lambda: _env("DARKROOM_PRIVATE_ADDRESSES", "") == "allow")
    """Whether http(s) sources may live on private, loopback and link-local addresses."""
    limits: Limits = field(default_factory=Limits)

    @property
    def spool(self) -> Path:
        """Where a compressed source is decompressed to, one folder an image, removed when the image is done."""
        return self.home / "spool"
