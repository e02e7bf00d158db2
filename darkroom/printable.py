"""What a guest, a source or another project wrote, as text that cannot steer the terminal that shows it."""

import re

_ORDER = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
"""An escape sequence of the common kind, such as a colour: it goes as a whole, and not only its first character."""


def printable(text: str, kept: str = "") -> str:
    """The text without escape sequences and control characters, but those in `kept`, such as the end of a line."""
    return "".join(letter for letter in _ORDER.sub("", text) if letter.isprintable() or letter in kept)
