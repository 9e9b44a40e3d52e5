"""A slot is held for a user who was given a token and has not joined, for a while; then it is free and the room is gone."""

from tests.calls import record, slots, states
from tests.livekit.people import inside
from tests.rooms.scene import Scene, closed, state_is
from tests.rooms.signalling import knock


async def test_after_the_time_to_join(stage: Scene) -> None:
    await stage.options(join_timeout_s=1)
    client, started = await stage.starts()
    assert (await client.hears("session.ended"))["reason"] == "client_lost"
    await lost(stage, started["session_id"])


async def test_at_once_when_its_client_closes_the_socket(stage: Scene) -> None:
    for code in (1000, 1001):
        client, started = await stage.starts(f"user-{code}")
        await client.leaves(code)
        await lost(stage, started["session_id"])


async def test_after_the_grace_when_its_client_is_lost(stage: Scene) -> None:
    client, started = await stage.starts()
    await client.leaves(1006)
    await lost(stage, started["session_id"])


async def test_one_who_knocked_but_never_had_media_has_not_joined(stage: Scene) -> None:
    await stage.options(join_timeout_s=2)
    client, started = await stage.starts()
    assert (await knock(stage.server.url, started["livekit"]["token"]))[0] == 101
    assert (await client.hears("session.ended"))["reason"] == "client_lost"
    await lost(stage, started["session_id"])


async def test_one_whose_join_was_not_told_of_is_found_before_the_end(stage: Scene) -> None:
    await stage.options(join_timeout_s=2)
    stage.relay.lose = True
    client, started = await stage.starts()
    async with inside(started["livekit"]):
        await state_is(started["session_id"], "active")
        await client.leaves(1001)
        assert (await record(started["session_id"])).state == "active"
    await state_is(started["session_id"], "ended")


async def lost(stage: Scene, session_id: str) -> None:
    await state_is(session_id, "ended")
    assert (await record(session_id)).reason == "client_lost"
    assert await states(session_id) == ["starting", "ended"]
    assert await slots() == 0
    await closed(session_id)
    assert await stage.rooms() == []
