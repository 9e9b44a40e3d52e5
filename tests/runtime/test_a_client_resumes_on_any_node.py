"""A resume token brings a client back to its session, on the node that carries it or on another one, and never to a second slot."""

import asyncio
from typing import Any

import pytest

from sessions_app.domain.states import Reason
from sessions_app.models import SessionEvent
from sessions_app.runtime.database import in_thread
from tests.calls import Closed, House, ends, house, make_backend, make_tenant, record, slots, states, until

FRAME = bytes(960)


@pytest.fixture
async def tenant(home: House) -> Any:
    await make_backend(options={"delay_ms": 0})
    return await make_tenant(grace_s=5)


async def reconnecting(session_id: str) -> None:
    async def is_so() -> bool:
        return (await record(session_id)).state == "reconnecting"

    await until(is_so)


async def refused(client: Any, code: str = "authentication_failed", close: int = 4401) -> None:
    assert (await client.hears("session.rejected"))["code"] == code
    assert await client.hears() == Closed(close)


async def test_in_the_same_process_the_providers_stream_is_the_same(home: House, tenant: Any) -> None:
    first = home.caller(tenant)
    started = await first.starts()
    stream = home.sessions._runners[next(iter(home.sessions._runners))]._side.session
    await first.leaves(1006)
    await reconnecting(started["session_id"])
    second = home.connect(started["resume_token"])
    resumed = await second.resumes()
    assert (resumed["session_id"], resumed["backend"], resumed["audio"]) == (started["session_id"], started["backend"], started["audio"])
    assert resumed["resume_token"] != started["resume_token"]
    assert 0 <= resumed["gap_ms"] < 10_000
    assert next(iter(home.sessions._runners.values()))._side.session is stream
    second.says(FRAME)
    assert await second.hears(bytes) == FRAME
    assert await states(started["session_id"]) == ["starting", "active", "reconnecting", "active"]
    assert await slots() == 1


async def test_on_another_node_the_stream_is_opened_again_and_the_older_connection_is_replaced(home: House, tenant: Any) -> None:
    first = home.caller(tenant)
    started = await first.starts()
    async with house() as elsewhere:
        second = elsewhere.connect(started["resume_token"])
        assert (await second.resumes())["session_id"] == started["session_id"]
        second.says(FRAME)
        assert await second.hears(bytes) == FRAME
        assert await first.hears(Closed) == Closed(4409)
        await until(lambda: len(home.sessions) == 0)
        assert (await record(started["session_id"])).node_id == elsewhere.node.id
        assert await slots() == 1
        second.says({"type": "session.stop"})
        assert (await second.hears("session.ended"))["reason"] == "completed"
    assert (await record(started["session_id"])).reason == "completed"


async def test_a_connect_token_whose_session_lives_elsewhere_attaches_to_it(home: House, tenant: Any) -> None:
    token = home.token(tenant)
    first = home.connect(token)
    session_id = (await first.starts())["session_id"]
    async with house() as elsewhere:
        second = elsewhere.connect(token)
        assert (await second.starts())["session_id"] == session_id
        assert await first.hears(Closed) == Closed(4409)
        assert await slots() == 1


async def test_it_goes_back_and_forth_between_nodes(home: House, tenant: Any) -> None:
    client = home.caller(tenant)
    token = (await client.starts())["resume_token"]
    async with house() as elsewhere:
        for place in (elsewhere, home, elsewhere, home):
            client = place.connect(token)
            token = (await client.resumes())["resume_token"]
            client.says(FRAME)
            assert await client.hears(bytes) == FRAME
        assert await slots() == 1


async def test_the_token_before_stays_good_until_the_new_connection_has_sent_a_frame(home: House, tenant: Any) -> None:
    first = home.caller(tenant)
    old = (await first.starts())["resume_token"]
    for _ in range(3):  # the reply with the new token is lost each time
        again = home.connect(old)
        new = (await again.resumes())["resume_token"]
    again.says({"type": "ping", "t": 1})
    await again.hears("pong")
    runner = next(iter(home.sessions._runners.values()))
    await until(lambda: runner._presence.floor == runner.connection)
    await refused(home.connect(old))
    events = await in_thread(lambda: list(SessionEvent.objects.filter(reason="authentication_failed")))
    assert len(events) == 1
    assert events[0].old == events[0].new == "active"
    await home.connect(new).resumes()


async def test_old_tokens_are_recorded_a_few_times_and_refused_for_ever(home: House, tenant: Any) -> None:
    old = (await home.caller(tenant).starts())["resume_token"]
    newer = home.connect(old)
    await newer.resumes()
    newer.says({"type": "ping", "t": 1})
    runner = next(iter(home.sessions._runners.values()))
    await until(lambda: runner._presence.floor == runner.connection)
    for _ in range(8):
        await refused(home.connect(old))
    assert await in_thread(SessionEvent.objects.filter(reason="authentication_failed").count) == 5
    assert not newer.task.done()


async def test_a_resume_token_is_spent_with_its_session(home: House, tenant: Any) -> None:
    client = home.caller(tenant)
    started = await client.starts()
    client.says({"type": "session.stop"})
    await client.hears(Closed)
    await refused(home.connect(started["resume_token"]))


async def test_a_client_that_is_gone_before_its_resume_is_answered_leaves_a_grace(home: House, tenant: Any) -> None:
    first = home.caller(tenant)
    started = await first.starts()
    async with house() as elsewhere:
        await elsewhere.connect(started["resume_token"]).leaves(1006)

        async def is_there() -> bool:
            now = await record(started["session_id"])
            return (now.state, now.node_id) == ("reconnecting", elsewhere.node.id)

        await until(is_there)
        assert await slots() == 1


async def test_a_session_that_was_opened_again_keeps_its_longest_duration(home: House) -> None:
    await make_backend(options={"delay_ms": 0})
    tenant = await make_tenant(max_duration_s=2)
    started = await home.caller(tenant).starts()
    async with house() as elsewhere:
        client = elsewhere.connect(started["resume_token"])
        await client.resumes()
        ended = await client.hears("session.ended")
        assert ended["reason"] == "max_duration"
        over = await ends(started["session_id"])
        assert over.duration_ms is not None
        assert 1900 < over.duration_ms < 6000


async def test_a_node_that_goes_down_leaves_its_sessions_to_the_others(home: House, tenant: Any) -> None:
    async with house() as elsewhere:
        client = home.caller(tenant)
        started = await client.starts()
        await asyncio.wait_for(home.node.stop(), 10)
        assert await client.hears(Closed) == Closed(4012)
        assert (await record(started["session_id"])).state == "reconnecting"
        late = home.connect(home.token(tenant))
        await refused(late, "node_draining", 4012)
        second = elsewhere.connect(started["resume_token"])
        await second.resumes()
        second.says(FRAME)
        assert await second.hears(bytes) == FRAME
        assert await slots() == 1


async def test_the_last_node_that_goes_down_ends_what_there_is(home: House, tenant: Any) -> None:
    async with house() as elsewhere:
        waiting = await elsewhere.caller(tenant, "bob").starts()
        client = home.caller(tenant)
        started = await client.starts()
        await elsewhere.node.stop()
        await reconnecting(waiting["session_id"])
        await home.node.stop()
    ended = await client.hears("session.ended")
    assert ended["reason"] == "drained"
    assert await client.hears() == Closed(4012)
    for session_id in (waiting["session_id"], started["session_id"]):
        over = await record(session_id)
        assert (over.state, over.reason) == ("ended", Reason.DRAINED)
    assert await slots() == 0


async def test_whom_nobody_takes_over_ends_as_drained(home: House) -> None:
    await make_backend(options={"delay_ms": 0})
    tenant = await make_tenant(grace_s=1)
    async with house():
        started = await home.caller(tenant).starts()
        await home.node.stop()
        over = await ends(started["session_id"])
        assert (over.state, over.reason) == ("ended", Reason.DRAINED)
        assert await slots() == 0
