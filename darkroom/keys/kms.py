"""AWS KMS as the key manager, by boto3: any endpoint that speaks its API.

    alias/darkroom/PROJECT/NAME            the current version of a key, a KMS key of its own
    alias/darkroom/PROJECT/NAME/previous   the version before it, while a rotation has not ended

Who manages keys in KMS may make the alias by hand, for a key of any symmetric kind. In an alias, a character of a name
that is neither a letter, a digit nor a dash is written as an underscore and the two hexadecimal digits of its code.
A version's id is that of its KMS key, and what it wrapped is asked of that key, not of the alias: aliases may change.
The name of the key is part of the encryption context.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn
from urllib.parse import urlsplit

import boto3
from botocore import exceptions
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from darkroom import keys
from darkroom.errors import DarkroomError
from darkroom.keys import (
    Context,
    Key,
    KeyDisabledError,
    KeyExistsError,
    KeyForbiddenError,
    KeyMissingError,
    KeyNameError,
    KeysRefusedError,
    KeysThrottledError,
    KeysUnavailableError,
    KeysUrlError,
    UnwrapError,
)

_ROOT = "alias/darkroom/"
_PREVIOUS = "/previous"
_MAX_ALIAS = 256
_ATTEMPTS = 4
_CONNECTIONS = 16
_WINDOW = 30
"""Days until an old version is deleted, the most that KMS allows: until then its deletion can be cancelled."""
_STATES = {"Enabled": "enabled", "Disabled": "disabled", "PendingDeletion": "pending-deletion"}
_NOT_OURS = (
    "AccessDeniedException",
    "AccessDenied",
    "UnrecognizedClientException",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
    "IncompleteSignature",
    "MissingAuthenticationToken",
    "ExpiredTokenException",
    "OptInRequired",
)
_THROTTLED = ("ThrottlingException", "Throttling", "LimitExceededException", "RequestLimitExceeded")
_PASSING = ("KMSInternalException", "DependencyTimeoutException", "KeyUnavailableException")


class KmsKeys:
    """The keys of one project in AWS KMS."""

    def __init__(self, region: str, endpoint_url: str, project: str, credentials: tuple[str, str] | None) -> None:
        self.url = f"aws-kms://{region}"
        self.endpoint_url = endpoint_url
        self.project = project
        self._prefix = f"{_ROOT}{_encode(project)}/"
        with self._errors(""):
            self._client = _new_client(region, endpoint_url, credentials)

    def create(self, name: str) -> None:
        """Make a KMS key and its alias; a key that lost a race for the alias is deleted again."""
        with self._errors(name):
            if self._target(self._alias(name)):
                raise KeyExistsError(name)
            with self._new_key(name) as key:
                self._client.create_alias(AliasName=self._alias(name), TargetKeyId=key)

    def listed(self) -> list[Key]:
        """The keys with an alias of the project, sorted by name; each costs a request."""
        aliases = self._aliases()
        return [self._described(name, aliases[part], part + _PREVIOUS in aliases) for name, part in _names(aliases)]

    def names(self) -> list[str]:
        """The names of these aliases: a request for 50 of the account's."""
        return [name for name, _ in _names(self._aliases())]

    def find(self, name: str) -> Key:
        """One of them; raises KeyMissingError."""
        with self._errors(name):
            rotating = self._target(self._alias(name) + _PREVIOUS) is not None
        return self._described(name, self._alias(name), rotating)

    def set_enabled(self, name: str, enabled: bool) -> None:
        """Enable or disable the KMS keys of all its versions."""
        change = self._client.enable_key if enabled else self._client.disable_key
        with self._errors(name):
            change(KeyId=self._current(name))
            if previous := self._target(self._alias(name) + _PREVIOUS):
                change(KeyId=previous)

    def generate(self, name: str, context: Context) -> tuple[bytes, bytes]:
        """Return a new random key and its wrap, by GenerateDataKey."""
        with self._errors(name):
            made = self._client.generate_data_key(
                KeyId=self._alias(name), KeySpec="AES_256", EncryptionContext=_bound(name, context)
            )
        return made["Plaintext"], _wrapped(made)

    def wrap(self, name: str, key: bytes, context: Context) -> bytes:
        """Wrap `key` by Encrypt."""
        with self._errors(name):
            made = self._client.encrypt(KeyId=self._alias(name), Plaintext=key, EncryptionContext=_bound(name, context))
        return _wrapped(made)

    def unwrap(self, name: str, wrapped: bytes, context: Context) -> bytes:
        """Undo `wrap`, by Decrypt."""
        version, payload = keys.split(name, wrapped)
        with self._errors(name):
            found = self._client.decrypt(KeyId=version, CiphertextBlob=payload, EncryptionContext=_bound(name, context))
        key: bytes = found["Plaintext"]
        return key

    def rewrap(self, name: str, wrapped: bytes, context: Context, new_name: str) -> bytes:
        """By ReEncrypt: the key that is wrapped does not leave KMS. Its errors name the old key."""
        version, payload = keys.split(name, wrapped)
        with self._errors(name):
            made = self._client.re_encrypt(
                CiphertextBlob=payload,
                SourceKeyId=version,
                SourceEncryptionContext=_bound(name, context),
                DestinationKeyId=self._alias(new_name),
                DestinationEncryptionContext=_bound(new_name, context),
            )
        return _wrapped(made)

    def begin_rotation(self, name: str) -> Key:
        """Make a KMS key, note the current version as the previous one, then point the alias to the new one.

        KMS's own rotation is of no use here: it keeps the old key material for ever.
        """
        alias = self._alias(name)
        keys.require_usable(self, name)
        with self._errors(name):
            current, previous = self._current(name), self._target(alias + _PREVIOUS)
            if previous in (None, current):  # none is under way, or one that was killed before it had a new version
                with self._new_key(name) as key:
                    if previous is None:
                        self._client.create_alias(AliasName=alias + _PREVIOUS, TargetKeyId=current)
                    try:
                        self._client.update_alias(AliasName=alias, TargetKeyId=key)
                    except ClientError:
                        self._client.delete_alias(AliasName=alias + _PREVIOUS)
                        raise
        return self.find(name)

    def end_rotation(self, name: str) -> None:
        """Schedule the deletion of the previous version, then forget it."""
        with self._errors(name):
            previous = self._target(self._alias(name) + _PREVIOUS)
            if previous is None or previous == self._current(name):
                return
            with suppress(self._client.exceptions.KMSInvalidStateException):  # scheduled before a kill
                self._client.schedule_key_deletion(KeyId=previous, PendingWindowInDays=_WINDOW)
            self._client.delete_alias(AliasName=self._alias(name) + _PREVIOUS)

    def check(self) -> None:
        """Ask for one alias."""
        with self._errors(""):
            self._client.list_aliases(Limit=1)

    def _aliases(self) -> dict[str, str]:
        """The project's part of each of its aliases, and the id of the KMS key that it points to."""
        found = {}
        with self._errors(""):
            for page in self._client.get_paginator("list_aliases").paginate():
                for alias in page["Aliases"]:
                    if alias["AliasName"].startswith(self._prefix) and "TargetKeyId" in alias:
                        found[alias["AliasName"].removeprefix(self._prefix)] = alias["TargetKeyId"]
        return found

    def _alias(self, name: str) -> str:
        alias = self._prefix + _encode(name)
        if len(alias) + len(_PREVIOUS) > _MAX_ALIAS:
            raise KeyNameError(name, f"an alias of at most {_MAX_ALIAS} characters", f"{len(alias + _PREVIOUS)}")
        return alias

    def _target(self, alias: str) -> str | None:
        """The id of the KMS key that an alias points to."""
        try:
            target: str = self._client.describe_key(KeyId=alias)["KeyMetadata"]["KeyId"]
        except self._client.exceptions.NotFoundException:
            return None
        return target

    def _current(self, name: str) -> str:
        target = self._target(self._alias(name))
        if target is None:
            raise KeyMissingError(name)
        return target

    @contextmanager
    def _new_key(self, name: str) -> Iterator[str]:
        """Make a KMS key, which does not stay if KMS refuses what the block asks of it."""
        key: str = self._client.create_key(Description=f"Darkroom {self.project}/{name}")["KeyMetadata"]["KeyId"]
        try:
            yield key
        except ClientError:
            with suppress(ClientError):
                self._client.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)
            raise

    def _described(self, name: str, key: str, rotating: bool) -> Key:
        with self._errors(name):
            found = self._client.describe_key(KeyId=key)["KeyMetadata"]
        state = _STATES.get(found["KeyState"], "unavailable")
        return Key(name, state, found["KeyId"], rotating, found["CreationDate"])

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        which = name or self.url
        try:
            yield
        except ClientError as error:
            _raise_named(which, error)
        except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError) as error:
            raise KeyForbiddenError(which, "credentials", "none that can be used") from error
        except exceptions.NoRegionError:
            raise KeysUrlError(self.url, "a region", "none", "give aws-kms://REGION, or AWS_DEFAULT_REGION") from None
        except (BotoCoreError, OSError) as error:
            raise KeysUnavailableError(which, "", type(error).__name__) from error


def _names(aliases: dict[str, str]) -> list[tuple[str, str]]:
    """The names of keys, sorted, each with the part of the alias that says it."""
    return sorted((_decode(part), part) for part in aliases if "/" not in part)


def _raise_named(which: str, error: ClientError) -> NoReturn:
    """What KMS says, as one of our errors."""
    said = error.response.get("Error", {})
    code, message = said.get("Code", ""), said.get("Message", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    raised: DarkroomError = KeysRefusedError(which, "", f"{code} {message}".strip())
    if code == "NotFoundException":
        raised = KeyMissingError(which)
    elif code == "AlreadyExistsException":
        raised = KeyExistsError(which)
    elif code == "DisabledException":
        raised = KeyDisabledError(which, "an enabled key", "a disabled one")
    elif code == "KMSInvalidStateException":
        remedy = "see its state in KMS; while a deletion is pending it can be cancelled there"
        raised = KeyDisabledError(which, "an enabled key", message or "another state", remedy)
    elif code in ("InvalidCiphertextException", "IncorrectKeyException"):
        raised = UnwrapError(which)
    elif code in _NOT_OURS:
        raised = KeyForbiddenError(which, "", code)
    elif code in _THROTTLED:
        raised = KeysThrottledError(which, "", code)
    elif code in _PASSING or status >= 500:
        raised = KeysUnavailableError(which, "", code)
    raise raised from error


def _new_client(region: str, endpoint_url: str, credentials: tuple[str, str] | None) -> Any:
    if endpoint_url and (urlsplit(endpoint_url).scheme not in ("http", "https") or not urlsplit(endpoint_url).hostname):
        raise KeysUrlError(
            "the KMS endpoint", "http://host:port or https://host", "", "correct DARKROOM_KMS_ENDPOINT_URL"
        )
    if region and not re.fullmatch(r"[a-z0-9-]+", region):
        raise KeysUrlError("aws-kms://…", "a region", "something else")
    # At DEBUG botocore logs what it sends and receives, and of KMS those are data keys.
    logging.getLogger("botocore").setLevel(logging.INFO)
    identity, secret = credentials or (None, None)
    config = Config(
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        max_pool_connections=_CONNECTIONS,
        connect_timeout=5,
        read_timeout=5,  # a catalog transaction waits for the answer
    )
    # A session of its own: the default one is not safe to share between threads, and keeps old credentials.
    session = boto3.session.Session(aws_access_key_id=identity, aws_secret_access_key=secret)
    return session.client("kms", region_name=region or None, endpoint_url=endpoint_url or None, config=config)


def _bound(name: str, context: Context) -> dict[str, str]:
    return {**context, "key": name}


def _wrapped(made: Any) -> bytes:
    """The wrap of an answer, whose KeyId is the ARN of the KMS key that made it."""
    return keys.versioned(made["KeyId"].rpartition("/")[2], made["CiphertextBlob"])


def _encode(name: str) -> str:
    return re.sub(rb"[^A-Za-z0-9-]", lambda found: b"_%02x" % found[0][0], name.encode()).decode()


def _decode(part: str) -> str:
    raw = re.sub(rb"_([0-9a-f]{2})", lambda found: bytes((int(found[1], 16),)), part.encode())
    return raw.decode(errors="replace")
