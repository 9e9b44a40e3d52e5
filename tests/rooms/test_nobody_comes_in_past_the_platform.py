"""Who was sent away stays away: with the token that let them in, and with the refresh token that the server gave them for ten minutes."""

from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from sessions_app import tasks
from sessions_app.models import Claim
from sessions_app.runtime import webhooks
from sessions_app.runtime.database import in_thread
from sessions_app.services import ending
from tests.calls import Closed, record, slots
from tests.livekit.people import inside, until
from tests.livekit_server import NewLiveKit
from tests.rooms.scene import Scene, closed, drift, events, make_backend, scene, state_is
from tests.rooms.signalling import knock


@pytest.fixture
async def open_house(committed_db: None, new_livekit: NewLiveKit) -> AsyncIterator[Scene]:
    """A server that makes a room for whoever comes with a token."""
    async with scene(new_livekit, auto_create=True) as opened:
        yield opened


async def terminated(stage: Scene) -> tuple[str, str, str]:
    """A session that an operator ended while its user was talking: its id, the user's token, and the server's refresh token."""
    client, started = await stage.starts()
    session_id, token, url = started["session_id"], started["livekit"]["token"], started["livekit"]["url"]
    status, refresh = await knock(url, token)
    assert status == 101
    assert refresh
    async with inside(started["livekit"]) as person:
        await state_is(session_id, "active")
        await in_thread(ending.request_end, session_id=UUID(session_id), actor="ops")
        assert (await client.hears("session.ended"))["reason"] == "terminated"
        assert await client.hears() == Closed(4410)
        await person.gone
    assert await slots() == 0
    return session_id, token, refresh


async def test_both_tokens_are_refused_from_the_end_on(stage: Scene) -> None:
    session_id, token, refresh = await terminated(stage)
    for _ in range(2):  # before the platform has heard of the room's end, and after it
        assert (await knock(stage.server.url, token))[0] == 404
        assert (await knock(stage.server.url, refresh))[0] == 404
        await closed(session_id)
    over = await record(session_id)
    assert (over.state, over.reason) == ("ended", "terminated")
    assert await stage.rooms() == []
    assert await drift() == []


async def test_where_the_server_makes_rooms_by_itself_theirs_is_removed_by_its_webhook(open_house: Scene) -> None:
    session_id, token, refresh = await terminated(open_house)
    await closed(session_id)
    for number, credential in enumerate((token, refresh), start=1):
        await knock(open_house.server.url, credential)

        async def found(number: int = number) -> bool:
            return len(await drift()) == number and await open_house.rooms() == []

        await until(found, "the removal of a room that nobody was admitted to")
    assert await drift() == [("orphan_room", f"voice-{session_id}")] * 2
    assert await slots() == 0
    assert "removed" in " ".join(each.verdict for each in await events() if each.name == "room_started")


async def test_without_webhooks_it_is_removed_by_the_reconcile(open_house: Scene) -> None:
    session_id, token, _ = await terminated(open_house)
    await closed(session_id)
    open_house.relay.lose = True
    await knock(open_house.server.url, token)
    # Nobody is in a room any more, so that no node watches this backend.
    assert await open_house.rooms() == [f"voice-{session_id}"]
    await open_house.reconcile()
    assert await open_house.rooms() == []
    assert await drift() == [("orphan_room", f"voice-{session_id}")]


async def test_a_room_that_somebody_else_made_is_removed_too(stage: Scene) -> None:
    from livekit import api

    async with api.LiveKitAPI(stage.server.url, stage.server.key, stage.server.secret) as server:
        await server.room.create_room(api.CreateRoomRequest(name="a-party"))

    async def gone() -> bool:
        return await stage.rooms() == [] and bool(await drift())

    await until(gone, "the removal")
    assert await drift() == [("orphan_room", "a-party")]


async def test_whom_no_session_admitted_is_put_out_of_a_room(stage: Scene) -> None:
    from livekit import api

    client, started = await stage.starts()
    room = started["livekit"]["room"]
    grant = api.VideoGrants(room_join=True, room=room)
    forged = api.AccessToken(stage.server.key, stage.server.secret).with_identity("eve").with_grants(grant).to_jwt()
    async with inside({"url": stage.server.url, "token": forged}) as eve:
        await stage.reconcile()
        await eve.gone

    async def recorded() -> bool:  # a node that looked at the same moment has it in hand
        return await drift() == [("foreign_participant", room)]

    await until(recorded, "the record")
    async with inside(started["livekit"]):
        await state_is(started["session_id"], "active")
    assert client.said


async def test_a_backend_on_the_same_server_leaves_the_rooms_of_the_other_alone(stage: Scene) -> None:
    """Two backends share a server where each has an agent of its own; its webhooks go to both addresses."""
    second = await in_thread(make_backend, stage.server, "second")
    _client, started = await stage.starts()
    session_id = started["session_id"]
    async with inside(started["livekit"]) as person:
        await state_is(session_id, "active")
        await in_thread(Claim.objects.filter(name__startswith="reconcile:").delete)
        assert await in_thread(tasks.reconcile) == 2
        for each in list(stage.relay.seen):
            authorization = each[1]
            assert await webhooks.receive(provider="livekit", backend="second", body=each[0], authorization=authorization) == "stored"

        async def read() -> bool:
            return all(each.processed_at is not None for each in await events() if each.backend_id == second.pk)

        await until(read, "the events that came to the other backend")
        assert await stage.rooms() == [f"voice-{session_id}"]
        assert not person.gone.done()
    assert await drift() == []
    assert {each.verdict for each in await events() if each.backend_id == second.pk and each.name == "participant_joined"} == {
        "Of a session on another backend."
    }
