"""Passwords that a server of this machine asks for: made with its first start, kept in a file, compared in its time."""

import hmac
import os
import secrets
from base64 import b64encode
from pathlib import Path


def kept(folder: Path) -> str:
    """The password in the file `password` of a folder, as `user:password`: made once, for this account only to read."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = folder / "password"
    if not file.exists():
        part = folder / f".password-{secrets.token_hex(4)}"
        part.touch(mode=0o600)
        part.write_text(f"darkroom:{secrets.token_urlsafe(24)}\n")
        try:
            os.link(part, file)  # the first of several wins
        except FileExistsError:
            pass
        part.unlink()
    return file.read_text().strip()


def is_given(header: str, password: str) -> bool:
    """Whether an Authorization header of the Basic scheme (RFC 7617) gives a password; tells nothing by its time."""
    scheme, _, token = header.partition(" ")
    wanted = b64encode(password.encode())
    return hmac.compare_digest(token.strip().encode(), wanted) and scheme.lower() == "basic"
