"""A connection is only attached to its session: it may drop, come back, or be replaced; the slot stays one."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest

from sessions_app.domain.operations import Suspend
from sessions_app.domain.states import Reason
from sessions_app.runtime.database import in_thread
from tests.calls import Closed, House, ends, make_backend, make_tenant, record, slots, states, until

FRAME = bytes(960)


@pytest.fixture
async def tenant(home: House) -> Any:
    await make_backend(options={"delay_ms": 0})
    return await make_tenant(grace_s=5)


async def state(session_id: str) -> str:
    return (await record(session_id)).state


async def test_who_comes_back_in_time_keeps_the_session(home: House, tenant: Any) -> None:
    token = home.token(tenant)
    first = home.connect(token)
    session_id = (await first.starts())["session_id"]
    await first.leaves(1006)

    async def reconnecting() -> bool:
        return await state(session_id) == "reconnecting"

    await until(reconnecting)
    assert await slots() == 1
    second = home.connect(token)
    assert (await second.starts())["session_id"] == session_id
    second.says(FRAME)
    assert await second.hears(bytes) == FRAME

    async def active() -> bool:
        return await state(session_id) == "active"

    await until(active)
    second.says({"type": "session.stop"})
    await second.hears("session.ended")
    assert await states(session_id) == ["starting", "active", "reconnecting", "active", "ended"]


async def test_who_does_not_come_back_is_lost(home: House) -> None:
    await make_backend()
    client = home.caller(await make_tenant(grace_s=0))
    session_id = (await client.starts())["session_id"]
    await client.leaves(1001)
    over = await ends(session_id)
    assert (over.state, over.reason) == ("ended", "client_lost")
    assert await slots() == 0


async def test_a_newer_connection_replaces_the_older(home: House, tenant: Any) -> None:
    token = home.token(tenant)
    first = home.connect(token)
    session_id = (await first.starts())["session_id"]
    second = home.connect(token)
    await second.starts()
    assert await first.hears(Closed) == Closed(4409)
    await asyncio.wait_for(first.task, 5)
    second.says(FRAME)
    assert await second.hears(bytes) == FRAME
    assert await states(session_id) == ["starting", "active"]
    assert await slots() == 1


async def test_a_token_that_is_used_twice_at_once_takes_one_slot(home: House, tenant: Any) -> None:
    token = home.token(tenant)
    clients = [home.connect(token) for _ in range(5)]
    for client in clients:
        client.says({"type": "session.start"})
    await clients[-1].hears("session.started")
    assert await slots() == 1
    assert [(await each.hears(Closed)).code for each in clients[:-1]] == [4409] * 4


async def test_a_token_is_spent_when_its_session_is_over(home: House, tenant: Any) -> None:
    token = home.token(tenant)
    first = home.connect(token)
    await first.starts()
    first.says({"type": "session.stop"})
    await first.hears(Closed)
    again = home.connect(token)
    again.says({"type": "session.start"})
    assert (await again.hears("session.rejected"))["code"] == "authentication_failed"
    assert await again.hears() == Closed(4401)


async def test_a_token_is_spent_when_its_attempt_was_refused(home: House) -> None:
    await make_backend()
    token = home.token(await make_tenant(max_concurrent_sessions=0))
    for code, close in (("session_limit_exceeded", 4429), ("authentication_failed", 4401)):
        client = home.connect(token)
        client.says({"type": "session.start"})
        assert (await client.hears("session.rejected"))["code"] == code
        assert await client.hears() == Closed(close)


async def test_who_drops_while_the_backend_opens_has_the_grace_too(home: House) -> None:
    await make_backend(options={"open_delay_ms": 300})
    tenant = await make_tenant(grace_s=5)
    token = home.token(tenant)
    first = home.connect(token)
    first.says({"type": "session.start"})
    await until(lambda: len(home.sessions) == 1)
    await first.leaves(1006)

    async def reconnecting() -> bool:
        return await slots() == 1 and (await record(next(iter(home.sessions._runners)))).state == "reconnecting"

    await until(reconnecting)
    await home.connect(token).starts()


async def test_a_node_that_was_taken_for_lost_carries_its_sessions_on(home: House, tenant: Any) -> None:
    client = home.caller(tenant)
    session_id = (await client.starts())["session_id"]
    old = home.node.id
    await in_thread(home.node.batcher.ask(Suspend(UUID(session_id), old, reason=Reason.NODE_LOST)).result)
    home.node.id = uuid4()
    home.node.ids.append(home.node.id)
    home.sessions.move_to(home.node.id, was=old)

    async def moved() -> bool:
        now = await record(session_id)
        return (now.state, now.node_id) == ("active", home.node.id)

    await until(moved)
    client.says({"type": "session.stop"})
    assert (await client.hears("session.ended"))["reason"] == "completed"
    assert await slots() == 0


async def test_who_comes_and_goes_quickly_leaves_the_ledger_right(home: House, tenant: Any) -> None:
    token = home.token(tenant)
    session_id = (await home.connect(token).starts())["session_id"]
    runner = next(iter(home.sessions._runners.values()))
    attachment = runner._attachment
    assert attachment is not None
    for _ in range(5):
        runner.detach(attachment, stopped=False)
        runner.attach(attachment)
    runner.detach(attachment, stopped=False)

    async def reconnecting() -> bool:
        return await state(session_id) == "reconnecting"

    await until(reconnecting)
