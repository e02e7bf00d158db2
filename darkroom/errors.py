"""The families of all errors that Darkroom raises on purpose.

    DarkroomError                      exit 1
    ├── RefusedError                   exit 3   the input is not acceptable; trying again cannot help
    ├── MissingError                   exit 4   no such image, key, project, file
    ├── ConflictError                  exit 5   the state of the image or its name forbids it now
    ├── UnavailableError               exit 6   a system it needs is down; retryable
    └── DamagedError                   exit 1   stored bytes are not what was written

A concrete class stands in the module that raises it. Each has a stable `code` that scripts can match and that never
changes its meaning. An error reads

    code: which: what; expected …, found …; remedy

in one line, and holds no key, no plaintext and no credential. The fields are positional, so that errors
survive pickling between a worker and its flow. What is not printable is left out of the line: others may have
written what was found.
"""

from typing import ClassVar

from darkroom.printable import printable


class DarkroomError(Exception):
    """The root. `which` names the image or file; `expected` and `found` may be empty; `remedy` is the next step."""

    code: ClassVar[str] = "error"
    what: ClassVar[str] = "something went wrong"
    default_remedy: ClassVar[str] = ""
    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    def __init__(self, which: str, expected: str = "", found: str = "", remedy: str = "") -> None:
        super().__init__(which, expected, found, remedy)
        self.which = which
        self.expected = expected
        self.found = found
        self.remedy = remedy or self.default_remedy

    def __str__(self) -> str:
        compared = [f"expected {self.expected}"] if self.expected else []
        compared += [f"found {self.found}"] if self.found else []
        parts = [f"{self.code}: {self.which}: {self.what}", ", ".join(compared), self.remedy]
        return printable(" ".join("; ".join(part for part in parts if part).split()))


class RefusedError(DarkroomError):
    """The input is refused."""

    code = "refused"
    what = "the input is refused"
    exit_code = 3


class MissingError(DarkroomError):
    """Something named does not exist, or the caller may not know that it does."""

    code = "not-found"
    what = "there is no such thing"
    exit_code = 4


class ConflictError(DarkroomError):
    """The present state forbids the operation."""

    code = "conflict"
    what = "the present state does not allow it"
    exit_code = 5


class UnavailableError(DarkroomError):
    """A system that the operation needs does not answer; the same call may succeed later."""

    code = "unavailable"
    what = "a system that this needs does not answer"
    default_remedy = "see `darkroom status`, then run the same command again: it goes on where it stopped"
    exit_code = 6
    retryable = True


class DamagedError(DarkroomError):
    """Stored bytes are not what was written. Wrong bytes are never returned; this is raised instead."""

    code = "damaged"
    what = "stored data is damaged"
