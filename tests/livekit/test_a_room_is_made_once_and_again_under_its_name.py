"""Opening makes the session's room; a room that is there stays as it is, and one that is gone is made again under the same name."""

import json

from livekit import api

from sessions_app.providers.base import OpenRequest
from sessions_app.providers.livekit.provider import LiveKitProvider
from tests.livekit.people import inside
from tests.livekit_server import NewLiveKit, provider_of
from tests.providers.contract import request_for
from voiceplatform.embedded.livekit import LiveKit


async def sid_of(provider: LiveKitProvider, request: OpenRequest) -> str:
    (room,) = [room for room in await provider.list_rooms() if room.session_id == request.session_id]
    return room.sid


async def test_it_carries_session_tenant_and_limits(livekit: LiveKit) -> None:
    provider = provider_of(livekit, join_timeout_s=40, departure_timeout_s=77)
    request = request_for(provider, metadata={"private": "to the agent"})
    session = await provider.open(request)
    async with api.LiveKitAPI(livekit.url, livekit.key, livekit.secret) as server:
        (room,) = (await server.room.list_rooms(api.ListRoomsRequest(names=[session.resource]))).rooms
    assert json.loads(room.metadata) == {"session": str(request.session_id), "tenant": "demo"}
    assert (room.max_participants, room.empty_timeout, room.departure_timeout) == (1, 100, 77)
    await provider.close(session)
    await provider.aclose()


async def test_opened_twice_it_is_one_room(livekit: LiveKit) -> None:
    provider = provider_of(livekit)
    request = request_for(provider)
    session = await provider.open(request)
    before = await sid_of(provider, request)
    async with inside(session.client):
        await provider.open(request)
        assert await sid_of(provider, request) == before
        assert len(await provider.list_participants(session.resource)) == 1
    await provider.close(session)
    await provider.aclose()


async def test_removed_it_is_gone_and_opened_again_it_is_another_room_of_the_same_name(livekit: LiveKit) -> None:
    provider = provider_of(livekit)
    request = request_for(provider)
    session = await provider.open(request)
    before = await sid_of(provider, request)
    await provider.remove_room(session.resource)
    await provider.remove_room(session.resource)
    assert await provider.list_participants(session.resource) == []
    assert request.session_id not in {room.session_id for room in await provider.list_rooms()}
    again = await provider.open(request)
    assert again.resource == session.resource
    assert await sid_of(provider, request) != before
    # The way in that the client was given the first time leads into it.
    async with inside(session.client):
        assert len(await provider.list_participants(session.resource)) == 1
    await provider.close(again)
    await provider.aclose()


async def test_who_is_not_there_is_removed_without_an_error(livekit: LiveKit) -> None:
    provider = provider_of(livekit)
    session = await provider.open(request_for(provider))
    await provider.remove_participant(session.resource, "nobody")
    await provider.close(session)
    await provider.remove_participant(session.resource, "nobody")
    await provider.aclose()


async def test_after_a_restart_of_the_server_the_same_provider_opens_it_again(new_livekit: NewLiveKit) -> None:
    server = new_livekit()
    provider = provider_of(server)
    request = request_for(provider)
    session = await provider.open(request)
    server.kill()
    server.start()
    assert await provider.list_rooms() == []
    await provider.open(request)
    async with inside(provider.rejoin(request.session_id)):
        assert len(await provider.list_participants(session.resource)) == 1
    await provider.close(session)
    await provider.aclose()


async def test_an_agent_is_dispatched_by_name_with_what_it_has_to_know(livekit: LiveKit) -> None:
    provider = provider_of(livekit, agent_name="concierge")
    request = request_for(provider, model={"model": "m-1"}, metadata={"shop": "14"})
    session = await provider.open(request)
    async with api.LiveKitAPI(livekit.url, livekit.key, livekit.secret) as server:
        (dispatch,) = await server.agent_dispatch.list_dispatch(session.resource)
        assert dispatch.agent_name == "concierge"
        assert json.loads(dispatch.metadata) == {
            "session": str(request.session_id),
            "tenant": "demo",
            "user": "ann",
            "pipeline": "s2s",
            "model": {"model": "m-1"},
            "metadata": {"shop": "14"},
        }
        await provider.dispatch_agent(session.resource, request)
        assert len(await server.agent_dispatch.list_dispatch(session.resource)) == 2
    await provider.close(session)
    await provider.aclose()
