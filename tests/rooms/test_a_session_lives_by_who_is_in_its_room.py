"""The room says whether a session lives: its user's coming makes it active, their going begins the grace, the room's end ends it."""

from uuid import UUID

from tests.calls import Closed, record, slots, states, until
from tests.livekit.people import Person, inside
from tests.rooms.scene import Scene, all_processed, closed, events, room_of, state_is


async def test_it_is_starting_until_the_user_has_joined_and_ends_by_a_stop(stage: Scene) -> None:
    client, started = await stage.starts()
    session_id = started["session_id"]
    assert started["livekit"]["room"] == f"voice-{session_id}"
    assert started["audio"] is None
    assert await states(session_id) == ["starting"]
    async with inside(started["livekit"]) as person:
        await state_is(session_id, "active")
        assert (await room_of(session_id)).user_here
        client.says({"type": "session.stop"})
        assert (await client.hears("session.ended"))["reason"] == "completed"
        assert await client.hears() == Closed(1000)
        await person.gone
    assert await slots() == 0
    assert await stage.rooms() == []
    await closed(session_id)
    assert await states(session_id) == ["starting", "active", "ended"]
    await all_processed()
    assert {"room_started", "participant_joined"} <= {each.name for each in await events()}


async def test_who_leaves_has_the_grace_to_come_back_in(stage: Scene) -> None:
    client, started = await stage.starts()
    session_id = started["session_id"]
    async with inside(started["livekit"]):
        await state_is(session_id, "active")
    await state_is(session_id, "reconnecting")
    async with inside((await stage.provider()).rejoin(UUID(session_id))):
        await state_is(session_id, "active")
    await state_is(session_id, "ended")
    over = await record(session_id)
    assert (over.state, over.reason) == ("ended", "client_lost")
    assert (await client.hears("session.ended"))["reason"] == "client_lost"
    assert await slots() == 0
    assert await stage.rooms() == []
    assert await states(session_id) == ["starting", "active", "reconnecting", "active", "reconnecting", "ended"]


async def test_the_rooms_end_ends_it(stage: Scene) -> None:
    client, started = await stage.starts()
    session_id = started["session_id"]
    async with inside(started["livekit"]) as person:
        await state_is(session_id, "active")
        await (await stage.provider()).remove_room(started["livekit"]["room"])
        await person.gone
        assert (await client.hears("session.ended"))["reason"] == "provider_ended"
    assert await slots() == 0


async def test_a_connection_that_drops_after_the_join_changes_nothing(stage: Scene) -> None:
    client, started = await stage.starts()
    session_id = started["session_id"]
    async with inside(started["livekit"]):
        await state_is(session_id, "active")
        await client.leaves(1006)
        await until(lambda: len(stage.house.sessions) == 0)
        again = stage.house.connect(started["resume_token"])
        resumed = await again.resumes()
        assert resumed["livekit"]["room"] == started["livekit"]["room"]
        assert await states(session_id) == ["starting", "active"]
        other = Person()
        await other.enter(resumed["livekit"]["url"], resumed["livekit"]["token"])
        await state_is(session_id, "active")
        again.says({"type": "session.stop"})
        assert (await again.hears("session.ended"))["reason"] == "completed"
        await other.gone
        await other.leave()
    assert await slots() == 0
