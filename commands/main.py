"""`darkroom`: the parser, and how errors become exit codes.

Exit codes: 0 done, 1 findings or any other error, 2 usage, 3 refused input, 4 not found, 5 conflict, 6 a system it
needs is down, 130 interrupted.
"""

import argparse
import logging
import os
import sys
from typing import Any

from commands import (
    browse,
    capture,
    deleting,
    events,
    hosts,
    images,
    keys,
    maintenance,
    metrics,
    migrate,
    policy,
    projects,
    reporting,
    servers,
    services,
    sharing,
    transfer,
    up,
    volumes,
)
from darkroom import audit
from darkroom.errors import DarkroomError

_INTERRUPTED = 130


class _Notices(logging.Handler):
    """Shows what the domain has to say to people, such as that an image is deprecated."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a notice as one line."""
        print(f"darkroom: {record.getMessage()}", file=sys.stderr)


_NOTICES = _Notices()


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    logging.getLogger("darkroom").addHandler(_NOTICES)
    audit.operation.set(options.command)
    if "project" in options:
        os.environ["DARKROOM_PROJECT"] = options.project  # for all of this process, its flows included
    try:
        code: int = options.run(options)
    except DarkroomError as error:
        print(f"darkroom: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("darkroom: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output, such as `head`, has gone
        return 0
    return code


class _Command(argparse.ArgumentParser):
    """The parser of a command: each takes the project to act as."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.add_argument(
            "--project", default=argparse.SUPPRESS, help="act as this project; by default $DARKROOM_PROJECT, or default"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="darkroom", description="Private machine images.")
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND", parser_class=_Command)
    for module in (
        transfer,
        migrate,
        browse,
        images,
        reporting,
        policy,
        deleting,
        maintenance,
        sharing,
        keys,
        projects,
        events,
        hosts,
        servers,
        volumes,
        capture,
        services,
        up,
        metrics,
    ):
        module.add_commands(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
