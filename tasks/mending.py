"""What Prefect's server does not do right by itself; it loads this by PREFECT_SERVER_EVENTS_CAUSAL_ORDERING.

- It holds an event back until it has heard the one that this one follows, for a quarter of an hour if need be. What it
  heard before its start it has forgotten: without this a run that was begun shortly before would not be heard to end.
- With SQLAlchemy 2.1 it makes no run of any schedule: its rows have `state` beside the columns, which that refuses.
- On SQLite a transaction that reads before it writes fails if another one has written meanwhile, and the request is
  answered by 503. One that is to write from its beginning waits for its turn.
- On SQLite it may stand still for a minute. A statement that failed stays open until its cursor is freed, which the
  thread does that serves all requests. There it waits for whatever else the connection does; and that may wait, for up
  to a minute, for a lock whose holder waits for this thread.
"""

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import aiosqlite
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.server.database.orm_models import FlowRun
from prefect.server.events.ordering import memory
from prefect.server.events.schemas.events import ReceivedEvent

_STARTED = time.time()
_begin_transaction = AioSqliteConfiguration.begin_transaction


class CausalOrdering(memory.CausalOrdering):
    """As Prefect's own, but that nothing waits for what was before the start of this process."""

    async def wait_for_leader(self, event: ReceivedEvent) -> None:
        """Return when the event may be handled; raises Prefect's EventArrivedEarly."""
        # The ids of events are UUIDs of version 7, which begin with their time in milliseconds.
        if event.follows and (event.follows.int >> 80) / 1000 < _STARTED:
            return
        await super().wait_for_leader(event)


def _without_state(_: type, values: dict[str, Any], __: Any) -> None:
    values.pop("state", None)  # it has rows of its own, which are made next


@asynccontextmanager
async def _begin_immediately(
    self: AioSqliteConfiguration, session: Any, with_for_update: bool = False
) -> AsyncGenerator[Any, None]:
    del with_for_update
    async with _begin_transaction(self, session, with_for_update=True) as transaction:
        yield transaction


async def _execute(self: Any, function: Any, *arguments: Any, **named: Any) -> Any:
    """As a cursor's own, but that what failed, or was cancelled, is closed at once, by the thread of its connection."""
    try:
        return await self._conn._execute(function, *arguments, **named)  # noqa: SLF001
    except BaseException:
        self._conn._tx.put_nowait((None, self._cursor.close))  # noqa: SLF001
        raise


FlowRun.__dict__["state"].bulk_dml_setter = _without_state
for _owner, _name, _mended in (
    (AioSqliteConfiguration, "begin_transaction", _begin_immediately),
    (aiosqlite.Cursor, "_execute", _execute),
):
    setattr(_owner, _name, _mended)
