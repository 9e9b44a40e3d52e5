"""A user's token lets that user into that room, with microphone and data; an agent's lets an agent in."""

import asyncio
import time
from uuid import UUID, uuid4

import jwt
import pytest
from livekit import api, rtc

from sessions_app.providers.livekit import tokens
from sessions_app.providers.livekit.provider import LiveKitProvider
from tests.livekit.people import Person, inside, until
from tests.livekit_server import provider_of
from tests.providers.contract import request_for
from voiceplatform.embedded.livekit import LiveKit, new_keys


def test_it_says_who_where_what_and_for_how_long() -> None:
    ((key, secret),) = new_keys().items()
    session_id = uuid4()
    claims = jwt.decode(tokens.for_user(session_id, key=key, secret=secret), secret, algorithms=["HS256"])
    assert (claims["iss"], claims["sub"]) == (key, f"user-{session_id}")
    assert claims["exp"] - claims["nbf"] == 60
    assert abs(claims["exp"] - 60 - time.time()) < 30
    granted = {name: value for name, value in claims["video"].items() if value}
    assert granted == {
        "roomJoin": True,
        "room": f"voice-{session_id}",
        "canPublish": True,
        "canPublishSources": ["microphone"],
        "canPublishData": True,
        "canSubscribe": True,
    }
    assert "kind" not in claims


def test_the_name_of_a_room_gives_its_session_back_and_nothing_else_does() -> None:
    session_id = uuid4()
    assert tokens.session_of(tokens.room_name(session_id)) == session_id
    for other in ("voice-probe", str(session_id), f"voice-{session_id.hex}", f"voice-{str(session_id).upper()}x", "", "voice-"):
        assert tokens.session_of(other) is None
    shouted = f"voice-{str(UUID(int=0xABCDEF)).upper()}"
    assert tokens.session_of(shouted) is None


async def test_it_does_not_open_another_sessions_room(livekit: LiveKit) -> None:
    provider = provider_of(livekit)
    mine, other = [await provider.open(request_for(provider)) for _ in range(2)]
    async with inside(mine.client):
        there = await provider.list_participants(mine.resource)
        assert [(each.identity, each.role) for each in there] == [(provider.user_identity(mine.session_id), "user")]
        assert await provider.list_participants(other.resource) == []
    for session in (mine, other):
        await provider.close(session)
    await provider.aclose()


async def test_microphone_and_data_are_allowed_and_the_camera_is_not(livekit: LiveKit) -> None:
    provider = provider_of(livekit)
    session = await provider.open(request_for(provider))
    async with inside(session.client) as ann:
        await ann.publish()
        await ann.room.local_participant.publish_data("hello")
        camera = rtc.LocalVideoTrack.create_video_track("camera", rtc.VideoSource(64, 64))
        publishing = asyncio.ensure_future(
            ann.room.local_participant.publish_track(camera, rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_CAMERA))
        )
        # The server does not answer what it does not allow: once what was asked later is there, the camera was passed over.
        await ann.publish()
        async with api.LiveKitAPI(livekit.url, livekit.key, livekit.secret) as server:
            who = api.RoomParticipantIdentity(room=session.resource, identity=provider.user_identity(session.session_id))

            async def sources() -> list[int]:
                return [track.source for track in (await server.room.get_participant(who)).tracks]

            async def both() -> bool:
                return len(await sources()) > 1

            await until(both, "both microphones")
            assert await sources() == [api.TrackSource.MICROPHONE] * 2
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
    await provider.close(session)
    await provider.aclose()


async def test_a_second_join_takes_the_place_of_the_first_and_a_stranger_finds_the_room_full(livekit: LiveKit) -> None:
    provider = provider_of(livekit)
    session = await provider.open(request_for(provider))
    async with inside(session.client) as first, inside(provider.rejoin(session.session_id)):
        assert await asyncio.wait_for(first.gone, 20) == rtc.DisconnectReason.DUPLICATE_IDENTITY
        grants = api.VideoGrants(room_join=True, room=session.resource)
        stranger = api.AccessToken(livekit.key, livekit.secret).with_identity("mallory").with_grants(grants).to_jwt()
        with pytest.raises(rtc.ConnectError):
            await Person().enter(livekit.url, stranger)
        agent = tokens.for_agent(session.session_id, key=livekit.key, secret=livekit.secret)
        async with inside({"url": livekit.url, "token": agent}):
            roles = [each.role for each in await provider.list_participants(session.resource)]
            assert sorted(roles) == ["agent", "user"]
    await provider.close(session)
    await provider.aclose()


async def test_a_removed_user_is_out_and_a_stranger_is_called_other(livekit: LiveKit) -> None:
    provider = provider_of(livekit)
    session = await provider.open(request_for(provider))
    async with inside(session.client) as ann:
        await provider.remove_participant(session.resource, provider.user_identity(session.session_id))
        assert await asyncio.wait_for(ann.gone, 20) == rtc.DisconnectReason.PARTICIPANT_REMOVED
    await until(lambda: _is_empty(provider, session.resource), "an empty room")
    grants = api.VideoGrants(room_join=True, room=session.resource)
    stranger = api.AccessToken(livekit.key, livekit.secret).with_identity("mallory").with_grants(grants).to_jwt()
    async with inside({"url": livekit.url, "token": stranger}):
        assert [each.role for each in await provider.list_participants(session.resource)] == ["other"]
    await provider.close(session)
    await provider.aclose()


async def _is_empty(provider: LiveKitProvider, room: str) -> bool:
    return not await provider.list_participants(room)
