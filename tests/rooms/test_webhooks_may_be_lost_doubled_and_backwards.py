"""Sessions and slots come out right whatever becomes of the server's webhooks on their way."""

import pytest

from sessions_app.runtime.webhooks import Received
from tests.calls import record, slots, states
from tests.livekit.people import inside
from tests.rooms.scene import Scene, all_processed, closed, drift, events, state_is


async def a_call(stage: Scene) -> str:
    """One from start to the end of its grace."""
    _, started = await stage.starts()
    session_id: str = started["session_id"]
    async with inside(started["livekit"]):
        await state_is(session_id, "active")
    await state_is(session_id, "ended")
    return session_id


async def came_out_right(stage: Scene, session_id: str) -> None:
    over = await record(session_id)
    assert (over.state, over.reason) == ("ended", "client_lost")
    assert await states(session_id) == ["starting", "active", "reconnecting", "ended"]
    assert await slots() == 0
    await closed(session_id)
    assert await stage.rooms() == []


async def test_none_comes(stage: Scene) -> None:
    stage.relay.lose = True
    await came_out_right(stage, await a_call(stage))
    assert await events() == []
    assert {kind for kind, _ in await drift()} == {"ghost_session"}


async def test_each_comes_twice(stage: Scene) -> None:
    stage.relay.copies = 2
    await came_out_right(stage, await a_call(stage))
    assert stage.relay.outcomes.count(Received.STORED) == stage.relay.outcomes.count(Received.REPEATED) == len(await events())


@pytest.mark.parametrize("backwards", [False, True])
async def test_they_come_late_and_backwards_while_the_call_goes_on(stage: Scene, backwards: bool) -> None:
    stage.relay.hold = True
    client, started = await stage.starts()
    session_id = started["session_id"]
    async with inside(started["livekit"]):
        await state_is(session_id, "active")  # by the watch
        await stage.relay.let_go(backwards=backwards)
        await all_processed()
        assert (await record(session_id)).state == "active"
    await state_is(session_id, "ended")
    await came_out_right(stage, session_id)
    assert (await client.hears("session.ended"))["reason"] == "client_lost"


@pytest.mark.parametrize("backwards", [False, True])
async def test_they_come_after_all_is_over(stage: Scene, backwards: bool) -> None:
    stage.relay.hold = True
    session_id = await a_call(stage)
    await closed(session_id)
    await stage.relay.let_go(backwards=backwards)
    await all_processed()
    await came_out_right(stage, session_id)
    assert {kind for kind, _ in await drift()} <= {"ghost_session"}
