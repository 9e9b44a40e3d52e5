"""LiveKit as a provider of rooms.

Owns: the way from a session to its room and back, and the order of what is asked of the server. Refuses: state. What is in a room the
server knows; what that means for a session, the platform.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit
from uuid import UUID

from livekit import api

from sessions_app.providers.base import (
    BackendConfig,
    Capabilities,
    LiveSession,
    OpenRequest,
    Participant,
    ProbeResult,
    ProviderSession,
    Room,
    RoomEvent,
    RoomPolicy,
    RoomProvider,
)
from sessions_app.providers.exceptions import AgentAbsent, InvalidConfig, ProviderError
from sessions_app.providers.livekit import tokens, webhooks
from sessions_app.providers.livekit.client import Client
from sessions_app.providers.livekit.options import Credentials, LiveKitOptions
from sessions_app.providers.livekit.settings import SETTINGS

logger = logging.getLogger(__name__)

MAX_PARTICIPANTS: Final = 1  # the user; agents are not counted
PROBED_ROOM: Final = "voice-probe"  # no session's: the answer is empty


class LiveKitProvider(RoomProvider):
    """A session is a room, named after it, that the user enters with a token."""

    name = "livekit"
    settings = SETTINGS

    def __init__(self, config: BackendConfig) -> None:
        self._backend = config.name
        self._options = LiveKitOptions.read(config.options)
        self._credentials = Credentials.read(config.secrets)
        self._capabilities = Capabilities(
            transports=frozenset({"webrtc"}), pipelines=frozenset({"s2s", "stt_tts"}), audio=(), relayed=False, resumable=True
        )
        self._client = Client(
            url=self._options.api_url,
            key=self._credentials.key,
            secret=self._credentials.secret,
            timeout_s=self._options.request_timeout_s,
        )
        # What is under way for a session: it must have ended before its room is removed.
        self._making: dict[UUID, asyncio.Task[None]] = {}
        self._calling: dict[UUID, asyncio.Task[None]] = {}

    @property
    def capabilities(self) -> Capabilities:
        """Any pipeline, over WebRTC only; media is not relayed."""
        return self._capabilities

    @property
    def client_origins(self) -> frozenset[str]:
        """The server's, for signalling and for the question why that was refused."""
        address = urlsplit(self._options.client_url)
        return frozenset({f"{address.scheme}://{address.netloc}", f"{address.scheme.replace('ws', 'http')}://{address.netloc}"})

    @property
    def policy(self) -> RoomPolicy:
        """As the options say."""
        return self._options.policy

    def room_name(self, session_id: UUID) -> str:
        """Return ``voice-<session id>``."""
        return tokens.room_name(session_id)

    def user_identity(self, session_id: UUID) -> str:
        """Return ``user-<session id>``."""
        return tokens.user_identity(session_id)

    def rejoin(self, session_id: UUID) -> Mapping[str, object]:
        """Return ``url``, ``token`` (good for 60 s from now) and ``room``."""
        token = tokens.for_user(session_id, key=self._credentials.key, secret=self._credentials.secret)
        return {"url": self._options.client_url, "token": token, "room": tokens.room_name(session_id)}

    async def open(self, request: OpenRequest) -> ProviderSession:
        """Make the room, with its agent's dispatch; one that is there already does not change. The echo agent is told, not waited for."""
        if not self._capabilities.serves(pipeline=request.pipeline, transport=request.transport):
            raise InvalidConfig(f"backend {self._backend!r} does not serve pipeline {request.pipeline!r} over {request.transport!r}.")
        session_id = request.session_id
        making = self._making.get(session_id)
        if making is None:
            making = self._making[session_id] = asyncio.get_running_loop().create_task(self._make_room(request))
            making.add_done_callback(lambda task: _forget(self._making, session_id, task))
        # Whoever gives up waiting leaves the question asked: close waits for its answer, and so removes what it makes.
        await asyncio.shield(making)
        if self._options.echo_agent_url and session_id not in self._calling:
            calling = self._calling[session_id] = asyncio.get_running_loop().create_task(self._call_echo_agent_quietly(session_id))
            calling.add_done_callback(lambda task: _forget(self._calling, session_id, task))
        return ProviderSession(session_id=session_id, audio=None, resource=tokens.room_name(session_id), client=self.rejoin(session_id))

    async def close(self, session: ProviderSession) -> None:
        """Remove the room, after whatever is still under way to make it."""
        calling = self._calling.get(session.session_id)
        if calling is not None:
            calling.cancel()
        making = self._making.get(session.session_id)
        if making is not None:
            await asyncio.wait({making})
        await self.remove_room(tokens.room_name(session.session_id))

    async def list_live(self) -> Sequence[LiveSession]:
        """List every room of the server."""
        return [LiveSession(session_id=room.session_id, resource=room.name, started_at=room.created_at) for room in await self.list_rooms()]

    async def probe(self) -> ProbeResult:
        """Ask for one room by a name that no session has: cheap, and refused where the key is wrong. Asked once, so that trouble shows."""
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        await self._client.ask(lambda server: server.room.list_rooms(api.ListRoomsRequest(names=[PROBED_ROOM])), tries=1)
        return ProbeResult(latency_ms=(loop.time() - asked_at) * 1000)

    async def aclose(self) -> None:
        """Give up what is under way, and the connections; rooms stay."""
        under_way = {*self._making.values(), *self._calling.values()}
        for task in under_way:
            task.cancel()
        if under_way:
            await asyncio.wait(under_way)
        await self._client.aclose()

    async def list_rooms(self) -> Sequence[Room]:
        """List every room of the server, those that are no session's too."""
        answer = await self._client.ask(lambda server: server.room.list_rooms(api.ListRoomsRequest()))
        return [
            Room(
                name=room.name,
                sid=room.sid,
                session_id=tokens.session_of(room.name),
                created_at=_time(room.creation_time_ms / 1000 or room.creation_time),
                participants=room.num_participants,
            )
            for room in answer.rooms
        ]

    async def list_participants(self, name: str) -> Sequence[Participant]:
        """List who is in the room."""
        session_id = tokens.session_of(name)
        answer = await self._client.ask(
            lambda server: server.room.list_participants(api.ListParticipantsRequest(room=name)), absent=api.ListParticipantsResponse()
        )
        return [
            Participant(
                sid=each.sid,
                identity=each.identity,
                role=webhooks.role_of(each.identity, session_id, is_agent=each.kind == api.ParticipantInfo.Kind.AGENT),
                active=each.state == api.ParticipantInfo.State.ACTIVE,
                joined_at=_time(each.joined_at_ms / 1000 or each.joined_at),
                has_audio=any(track.type == api.TrackType.AUDIO for track in each.tracks),
            )
            for each in answer.participants
        ]

    async def dispatch_agent(self, name: str, request: OpenRequest) -> None:
        """Dispatch an agent by name, or tell the echo agent, or both; once, since a second dispatch might bring a second agent."""
        if self._options.agent_name:
            wanted = api.CreateAgentDispatchRequest(room=name, agent_name=self._options.agent_name, metadata=_told(request))
            await self._client.ask(lambda server: server.agent_dispatch.create_dispatch(wanted), tries=1)
        if self._options.echo_agent_url:
            await self._call_echo_agent(request.session_id)

    async def remove_room(self, name: str) -> None:
        """Delete the room; all who are in it are put out."""
        await self._client.ask(lambda server: server.room.delete_room(api.DeleteRoomRequest(room=name)), absent=api.DeleteRoomResponse())

    async def remove_participant(self, name: str, identity: str) -> None:
        """Put somebody out of the room, which keeps them out only until they knock again."""
        who = api.RoomParticipantIdentity(room=name, identity=identity)
        await self._client.ask(lambda server: server.room.remove_participant(who), absent=api.RemoveParticipantResponse())

    def verify_webhook(self, body: bytes, authorization: str) -> Mapping[str, object]:
        """Return the event, if one of this backend's keys has signed it."""
        return webhooks.scrub(webhooks.verify(body, authorization, self._credentials.pairs))

    def read_event(self, event: Mapping[str, object]) -> RoomEvent:
        """Return what the event means."""
        return webhooks.read(event)

    async def _make_room(self, request: OpenRequest) -> None:
        agents = [api.RoomAgentDispatch(agent_name=self._options.agent_name, metadata=_told(request))] if self._options.agent_name else []
        wanted = api.CreateRoomRequest(
            name=tokens.room_name(request.session_id),
            metadata=json.dumps({"session": str(request.session_id), "tenant": request.tenant}),
            max_participants=MAX_PARTICIPANTS,
            empty_timeout=self._options.empty_timeout_s,
            departure_timeout=self._options.departure_timeout_s,
            agents=agents,
        )
        await self._client.ask(lambda server: server.room.create_room(wanted))

    async def _call_echo_agent_quietly(self, session_id: UUID) -> None:
        """Tell the echo agent; where that fails no agent comes, which is found out by the deadline for agents."""
        try:
            await self._call_echo_agent(session_id)
        except ProviderError as error:
            logger.warning("the echo agent was not told", extra={"session": str(session_id), "error": str(error)})

    async def _call_echo_agent(self, session_id: UUID) -> None:
        token = tokens.for_agent(session_id, key=self._credentials.key, secret=self._credentials.secret)
        status = await self._client.post(f"{self._options.echo_agent_url}/join", {"url": self._options.agent_url, "token": token})
        if status != HTTPStatus.ACCEPTED:
            raise AgentAbsent(f"the echo agent answered {status}.")


def _forget(tasks: dict[UUID, asyncio.Task[None]], session_id: UUID, task: asyncio.Task[None]) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        task.exception()  # whoever still waits is told; if nobody does, nobody has to be
    if tasks.get(session_id) is task:
        del tasks[session_id]


def _told(request: OpenRequest) -> str:
    """Return what an agent is told; clients do not see it, unlike the room's metadata."""
    told = {
        "session": str(request.session_id),
        "tenant": request.tenant,
        "user": request.user,
        "pipeline": request.pipeline,
        "model": dict(request.model),
        "metadata": dict(request.metadata),
    }
    return json.dumps(told)


def _time(seconds: float) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds else None
