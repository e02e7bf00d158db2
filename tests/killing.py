"""kill -9 of an operation before the n-th call of the database or the store, in processes that cost little to start."""

import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from darkroom.catalog import Catalog
from darkroom.settings import Settings
from darkroom.systems import Systems, catalog_dsn, open_systems


class Runner:
    """Runs functions of `darkroom` in forked children of one process that has all of it loaded."""

    def __init__(self, setup: str) -> None:
        command = [sys.executable, "-m", "tests.killing", setup]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def killed(self, function: str, *arguments: Any, step: int, operator: bool = False) -> bool:
        """Run `module.function` with systems and arguments, to be killed before call `step`; whether it was.

        `module` is one of `darkroom`, or of the tests as `tests.module`; a dict as the last argument holds options.
        """
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps([function, arguments, step, operator]) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        assert code in (0, -signal.SIGKILL), f"{function} ended with {code}"
        return code != 0

    def close(self) -> None:
        self._process.communicate(timeout=30)


@contextmanager
def runner(setup: str = "") -> Iterator[Runner]:
    """A runner; `setup` is a statement to be run in it first, with the modules of `darkroom` loaded."""
    found = Runner(setup)
    try:
        yield found
    finally:
        found.close()


def _serve() -> None:
    for line in sys.stdin:
        child = os.fork()
        if not child:
            os._exit(_run(*json.loads(line)))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _run(function: str, arguments: list[Any], step: int, operator: bool) -> int:
    module, _, name = function.rpartition(".")
    try:
        with open_systems(Settings()) as to:
            if operator:
                to = dataclasses.replace(to, catalog=Catalog(catalog_dsn(Settings()), None))
            _kill_before(to, step)
            module = module if module.startswith("tests.") else f"darkroom.{module}"
            options = arguments.pop() if arguments and isinstance(arguments[-1], dict) else {}
            getattr(importlib.import_module(module), name)(to, *arguments, **options)
    except Exception as error:
        print(f"{function}: {error!r}", file=sys.stderr, flush=True)
        return 1
    return 0


def _kill_before(to: Systems, step: int) -> None:
    """Kill this process before call number `step`: statements, commits, puts, gets, sizes, listings and deletes."""
    calls = 0

    def counted(real: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            if calls == step:
                os.kill(os.getpid(), signal.SIGKILL)
            calls += 1
            return real(*arguments, **options)

        return call

    for name in ("put", "get", "size", "delete", "list"):
        setattr(to.store, name, counted(getattr(to.store, name)))
    psycopg.Connection.execute = counted(psycopg.Connection.execute)  # type: ignore[method-assign]
    psycopg.Connection.commit = counted(psycopg.Connection.commit)  # type: ignore[method-assign]


if __name__ == "__main__":
    for module in ("tests.operations", "darkroom.deleting", "darkroom.collect"):
        importlib.import_module(module)
    exec(sys.argv[1], {"darkroom": sys.modules["darkroom"]})  # the test's own words
    _serve()
