"""No process is needed for a session in a room: whichever finds its room due looks after it, one at a time."""

import asyncio
from uuid import UUID

from sessions_app import tasks
from sessions_app.domain.operations import End
from sessions_app.domain.states import Reason
from sessions_app.providers.base import OpenRequest, ProviderSession
from sessions_app.providers.livekit.provider import LiveKitProvider
from sessions_app.runtime import backends
from sessions_app.runtime.database import in_thread
from sessions_app.services import ending, ledger_once, rooms
from tests.calls import house, record, slots, states
from tests.livekit.people import inside, until
from tests.rooms.scene import Scene, closed, drift, room_of, state_is


async def test_a_call_goes_on_when_the_node_that_admitted_it_goes_down(stage: Scene) -> None:
    async with house() as elsewhere:
        client, started = await stage.starts(house=elsewhere)
        session_id = started["session_id"]
        async with inside(started["livekit"]):
            await state_is(session_id, "active")
            await elsewhere.node.stop()
            assert not client.task.done() or client.said
            assert await states(session_id) == ["starting", "active"]
            await in_thread(ending.request_end, session_id=UUID(session_id), actor="ops")
            await state_is(session_id, "ended")
    assert (await record(session_id)).reason == "terminated"
    await closed(session_id)
    assert await slots() == 0


async def test_a_client_takes_its_session_up_on_another_node(stage: Scene) -> None:
    _, started = await stage.starts()
    async with house() as elsewhere:
        # Before the user has joined, and after.
        second = elsewhere.connect(started["resume_token"])
        resumed = await second.resumes()
        assert resumed["livekit"]["room"] == started["livekit"]["room"]
        async with inside(resumed["livekit"]):
            await state_is(started["session_id"], "active")
            third = stage.house.connect(resumed["resume_token"])
            third_told = await third.resumes()
            assert third_told["livekit"]["room"] == started["livekit"]["room"]
            assert await states(started["session_id"]) == ["starting", "active"]
            third.says({"type": "session.stop"})
            assert (await third.hears("session.ended"))["reason"] == "completed"
        assert await slots() == 0


async def test_the_longest_duration_is_held_without_a_connection(stage: Scene) -> None:
    await stage.quota(max_duration_s=3)
    client, started = await stage.starts()
    async with inside(started["livekit"]) as person:
        await state_is(started["session_id"], "active")
        await client.leaves(1000)
        await person.gone
    await state_is(started["session_id"], "ended")
    assert (await record(started["session_id"])).reason == "max_duration"


async def test_where_nobody_is_there_for_long_it_is_idle(stage: Scene) -> None:
    await stage.quota(idle_timeout_s=1, grace_s=30)
    _, started = await stage.starts()
    async with inside(started["livekit"]):
        await state_is(started["session_id"], "active")
    await state_is(started["session_id"], "ended")
    assert (await record(started["session_id"])).reason == "idle_timeout"


async def test_celery_looks_after_what_no_node_does(stage: Scene) -> None:
    client, started = await stage.starts()
    session_id = started["session_id"]
    async with inside(started["livekit"]) as person:
        await state_is(session_id, "active")
        for task in stage.house.node._tasks:
            task.cancel()  # the node stands still
        await stage.house.node.rooms.stop()
        await in_thread(ending.request_end, session_id=UUID(session_id), actor="ops")
        assert await in_thread(tasks.rooms) >= 1
        await person.gone
    assert (await record(session_id)).reason == "terminated"
    assert await slots() == 0
    assert (await room_of(session_id)).closed_at is not None
    assert client.said


async def test_one_at_a_time_has_a_room(stage: Scene) -> None:
    _, started = await stage.starts()
    session_id = UUID(started["session_id"])
    await until_free(session_id)
    found = await in_thread(rooms.claim, session_id=session_id, holder="one")
    assert found is not None
    assert await in_thread(rooms.claim, session_id=session_id, holder="two") is None
    # Stirred meanwhile, it is due as soon as it is given back.
    await in_thread(rooms.stir, session_ids=[session_id])
    assert await in_thread(rooms.release, found=found, holder="two", due=None) is False
    assert await in_thread(rooms.release, found=found, holder="one", due=None) is True


async def until_free(session_id: UUID) -> None:
    async def free() -> bool:
        room = await room_of(session_id)
        return room.claimed_until is None and bool(room.facts.get("rooms"))

    await until(free, "the first look")


async def test_a_room_made_again_for_a_session_that_ended_meanwhile_is_removed_at_once(stage: Scene) -> None:
    """The two interleaved: the room is lost, it is being made again, the session ends, and only then is it there."""
    _, started = await stage.starts()
    session_id = UUID(started["session_id"])
    made, may_go_on = asyncio.Event(), asyncio.Event()
    async with inside(started["livekit"]):
        await state_is(session_id, "active")
        provider = await backends.room_provider_for(stage.backend.pk)
        assert isinstance(provider, LiveKitProvider)
        make = provider.open

        async def open_slowly(request: OpenRequest) -> ProviderSession:
            opened = await make(request)
            made.set()
            await may_go_on.wait()
            return opened

        provider.open = open_slowly  # type: ignore[method-assign]
        stage.server.kill()
        await asyncio.to_thread(stage.server.start)
        async with asyncio.timeout(20):
            await made.wait()
        assert await stage.rooms() == [started["livekit"]["room"]]
        assert await in_thread(ledger_once.apply, End(session_id, Reason.TERMINATED)) is True
        may_go_on.set()
        await closed(session_id)
        assert await stage.rooms() == []
    assert await slots() == 0
    assert await drift() == []


async def test_a_room_that_cannot_be_removed_is_removed_when_it_can(stage: Scene) -> None:
    client, started = await stage.starts()
    session_id = started["session_id"]
    stage.server.kill()
    client.says({"type": "session.stop"})
    assert (await client.hears("session.ended"))["reason"] == "completed"
    assert await slots() == 0
    assert (await room_of(session_id)).closed_at is None
    await asyncio.to_thread(stage.server.start)
    await closed(session_id)
