"""What of Prefect's server is mended: events after a restart, transactions on SQLite, statements that failed there.

That schedules make runs, which is mended too, is for the tests of the deployments.
"""

import asyncio
import sqlite3
import time
from uuid import UUID, uuid4

import aiosqlite
import pytest
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.server.events.ordering import EventArrivedEarly
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.types._datetime import now
from sqlalchemy import text

from tasks import mending


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "prefect.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE turns (number integer)")
    return path


def test_transactions_that_read_and_then_write_take_turns(database):
    async def take_turn(configuration, engine):
        async with await configuration.session(engine) as session, configuration.begin_transaction(session):
            number = (await session.execute(text("SELECT count(*) FROM turns"))).scalar()
            await asyncio.sleep(0.05)
            await session.execute(text("INSERT INTO turns VALUES (:number)"), {"number": number})

    async def take_turns():
        configuration = AioSqliteConfiguration(f"sqlite+aiosqlite:///{database}")
        engine = await configuration.engine()
        await asyncio.gather(*(take_turn(configuration, engine) for _ in range(8)))
        await engine.dispose()

    asyncio.run(take_turns())

    with sqlite3.connect(database) as connection:
        assert connection.execute("SELECT number FROM turns ORDER BY number").fetchall() == [(n,) for n in range(8)]


def test_a_statement_that_failed_is_closed_at_once(database):
    async def fail():
        async with aiosqlite.connect(database, timeout=0) as connection:
            cursor = await connection.cursor()
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                await cursor.execute("INSERT INTO turns VALUES (1)")
            with pytest.raises(sqlite3.ProgrammingError, match="closed cursor"):
                await cursor.fetchone()

    writer = sqlite3.connect(database, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    asyncio.run(fail())
    writer.close()


def test_the_server_waits_for_no_event_that_it_heard_before_its_start():
    def arrives(follows_made_at: float) -> None:
        leader = UUID(int=(int(follows_made_at * 1000) << 80) | 7)
        resource = {"prefect.resource.id": "prefect.flow-run.x"}
        event = ReceivedEvent(occurred=now("UTC"), event="x", resource=resource, id=uuid4(), follows=leader)
        asyncio.run(mending.CausalOrdering("test").wait_for_leader(event))

    arrives(time.time() - 3600)
    with pytest.raises(EventArrivedEarly):
        arrives(time.time())
