"""How Prefect's server puts events in order, for its setting PREFECT_SERVER_EVENTS_CAUSAL_ORDERING.

It holds an event back until it has heard the one that this one follows, for a quarter of an hour if need be. What it
heard before its start it has forgotten: without this a run that was begun shortly before would not be heard to end.
"""

import time

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
