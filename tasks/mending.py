"""What Prefect's server does not do right by itself; it loads this by PREFECT_SERVER_EVENTS_CAUSAL_ORDERING.

- It holds an event back until it has heard the one that this one follows, for a quarter of an hour if need be. What it
  heard before its start it has forgotten: without this a run that was begun shortly before would not be heard to end.
- With SQLAlchemy 2.1 it makes no run of any schedule: its rows have `state` beside the columns, which that refuses.
  With SQLAlchemy 2.0 it does, but on SQLite it stands still for a minute now and then.
"""

import time
from typing import Any

from prefect.server.database.orm_models import FlowRun
from prefect.server.events.ordering import memory
from prefect.server.events.schemas.events import ReceivedEvent

_STARTED = time.time()


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


FlowRun.__dict__["state"].bulk_dml_setter = _without_state
