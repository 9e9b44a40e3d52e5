"""A promotion that meets a client on its way: who is gone gives the slot on at once, who is just coming back keeps it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import psycopg

from sessions_app.domain.operations import End
from sessions_app.domain.states import Reason
from sessions_app.models import Slot
from sessions_app.runtime.database import in_thread
from sessions_app.runtime.session_runner import SessionRunner
from tests.calls import House, ends, slots, states, until, waits

FRAME = bytes(960)
HELD_UP = (
    "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    " AND query NOT LIKE 'LOCK%'), pg_stat_clear_snapshot()"
)


def runner_of(home: House, session_id: str) -> SessionRunner:
    runner = home.sessions.get(UUID(session_id))
    assert runner is not None
    return runner


@asynccontextmanager
async def while_it_is_promoted(home: House, sql: psycopg.Connection[Any], talking: str) -> AsyncIterator[None]:
    """Hold the batch up that ends the call before and lets the next one in: what comes meanwhile comes too late for it."""
    with sql.transaction():
        sql.execute("LOCK TABLE sessions_app_session IN SHARE MODE")
        home.node.batcher.ask(End(UUID(talking), Reason.COMPLETED))
        await until(lambda: sql.execute(HELD_UP).fetchall()[0][0])
        yield


async def test_who_is_gone_gives_the_slot_to_the_next(home: House, tenant_with_queue: Any, sql: psycopg.Connection[Any]) -> None:
    talking = (await home.caller(tenant_with_queue, "talking").starts())["session_id"]
    first, second = home.caller(tenant_with_queue, "first"), home.caller(tenant_with_queue, "second")
    gone, next_one = (await waits(first))["session_id"], (await waits(second))["session_id"]
    async with while_it_is_promoted(home, sql, talking):
        await first.leaves(1006)
    over = await ends(gone)
    assert (over.state, over.reason) == ("ended", "client_lost")
    assert (await states(gone))[:2] == ["queued", "starting"]
    assert (await second.hears("session.started"))["session_id"] == next_one
    assert await slots() == 1


async def test_who_is_just_coming_back_keeps_the_slot(home: House, tenant_with_queue: Any, sql: psycopg.Connection[Any]) -> None:
    talking = (await home.caller(tenant_with_queue, "talking").starts())["session_id"]
    first, second = home.caller(tenant_with_queue, "first"), home.caller(tenant_with_queue, "second")
    queued = await waits(first)
    await waits(second)
    runner = runner_of(home, queued["session_id"])
    async with while_it_is_promoted(home, sql, talking):
        await first.leaves(1006)
        back = home.connect(queued["resume_token"])
        await until(lambda: runner._presence.expected)
    assert (await back.hears("session.started"))["session_id"] == queued["session_id"]
    back.says(FRAME)
    assert await back.hears(bytes) == FRAME
    assert await states(queued["session_id"]) == ["queued", "starting", "active"]
    assert (await in_thread(Slot.objects.get)).session_id == UUID(queued["session_id"])
    assert (await second.hears("session.queued"))["position"] == 1


async def test_who_comes_back_with_a_token_of_the_past_gives_the_slot_to_the_next(
    home: House, tenant_with_queue: Any, sql: psycopg.Connection[Any]
) -> None:
    talking = (await home.caller(tenant_with_queue, "talking").starts())["session_id"]
    first, second = home.caller(tenant_with_queue, "first"), home.caller(tenant_with_queue, "second")
    queued = await waits(first)
    next_one = (await waits(second))["session_id"]
    runner = runner_of(home, queued["session_id"])
    again = home.connect(queued["resume_token"])
    await again.hears("session.queued")
    again.says({"type": "ping"})
    await until(lambda: runner._presence.floor == 2)
    async with while_it_is_promoted(home, sql, talking):
        await again.leaves(1006)
        back = home.connect(queued["resume_token"])
        await until(lambda: runner._presence.expected)
    assert (await back.hears("session.rejected"))["code"] == "authentication_failed"
    over = await ends(queued["session_id"])
    assert (over.state, over.reason) == ("ended", "client_lost")
    assert (await second.hears("session.started"))["session_id"] == next_one


async def test_whose_time_is_over_as_it_is_let_in_keeps_no_slot(home: House, tenant_with_queue: Any, sql: psycopg.Connection[Any]) -> None:
    talking = (await home.caller(tenant_with_queue, "talking").starts())["session_id"]
    first, second = home.caller(tenant_with_queue, "first"), home.caller(tenant_with_queue, "second")
    late, next_one = (await waits(first))["session_id"], (await waits(second))["session_id"]
    async with while_it_is_promoted(home, sql, talking):
        runner_of(home, late).finish(Reason.QUEUE_TIMEOUT)
    assert (await first.hears("session.rejected"))["code"] == "queue_timeout"
    over = await ends(late)
    assert (over.state, over.reason) == ("ended", "client_lost")
    assert "longest wait" in over.detail
    assert (await second.hears("session.started"))["session_id"] == next_one
    assert await slots() == 1
