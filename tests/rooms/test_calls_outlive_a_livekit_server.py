"""``kill -9`` of livekit-server in mid-session, and a start: the same sessions, the same slots, and their clients are back."""

import asyncio

from tests.calls import record, slots, states
from tests.livekit.people import inside, until
from tests.rooms.scene import Scene, drift, room_of, state_is

CALLS = 3


async def test_the_rooms_are_made_again_and_their_users_come_back(stage: Scene) -> None:
    await stage.quota(grace_s=20)
    started = [(await stage.starts(f"user-{number}")) for number in range(CALLS)]
    ids = [each["session_id"] for _, each in started]
    async with inside(started[0][1]["livekit"]), inside(started[1][1]["livekit"]), inside(started[2][1]["livekit"]):
        for session_id in ids:
            await state_is(session_id, "active")
        before = [await room_of(session_id) for session_id in ids]
        stage.server.kill()
        await asyncio.to_thread(stage.server.start)
        for client, _ in started:
            resumed = await client.hears("session.resumed")
            assert resumed["livekit"]["token"]

        async def back() -> bool:
            return all([(await room_of(each)).user_here and (await record(each)).state == "active" for each in ids])

        await until(back, "the users' return")
        assert await slots() == CALLS
        after = [await room_of(session_id) for session_id in ids]
        assert [each.generation for each in after] == [2] * CALLS
        assert all(set(two.facts["rooms"]) > set(one.facts["rooms"]) for one, two in zip(before, after, strict=True))
        assert {kind for kind, _ in await drift()} == {"lost_room"}
        for client, _ in started:
            client.says({"type": "session.stop"})
            assert (await client.hears("session.ended"))["reason"] == "completed"
    for session_id in ids:
        assert (await states(session_id))[-2:] == ["active", "ended"]
    assert await slots() == 0


async def test_those_to_whom_nobody_comes_back_end_after_the_grace(stage: Scene) -> None:
    client, started = await stage.starts()
    session_id = started["session_id"]
    async with inside(started["livekit"]) as person:
        await state_is(session_id, "active")
        stage.server.kill()
        await person.leave()
        await asyncio.to_thread(stage.server.start)
        assert (await client.hears("session.resumed"))["livekit"]["room"] == started["livekit"]["room"]
        await state_is(session_id, "ended")
    over = await record(session_id)
    assert (over.state, over.reason) == ("ended", "client_lost")
    assert await slots() == 0
    assert await stage.rooms() == []
