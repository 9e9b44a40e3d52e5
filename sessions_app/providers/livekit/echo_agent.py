"""The reference agent: it enters a room when it is asked to, and answers with the user's own voice.

Owns: one connection for each room that it was asked into, and the door that it is asked at: ``POST /join`` with ``{"url", "token"}``, where
the token is an agent's for one room (``tokens.for_agent``) and its own authorisation: signed with a key that this agent knows.
``GET /healthz`` answers 200.
Refuses: to stay for ever. It leaves when the room ends, when nobody else has been there for ``alone_s``, and when it is told to stop.
Limits: ``max_rooms`` at once, and a fifth of a second of audio under way in each; what comes faster is dropped. Asked into a room where it
is, it stays as it is, but where it has lost the connection it comes again with the new token. Whether it came, only the room tells.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from aiohttp import web
from livekit import rtc

from sessions_app.providers.livekit import tokens

logger = logging.getLogger(__name__)

MAX_ROOMS: Final = 100
ALONE_S: Final = 120.0
MAX_BODY: Final = 8192  # bytes
JOIN_S: Final = 10.0  # from asking to being in the room
LEAVE_S: Final = 3.0  # for the goodbye to one room
SAMPLE_RATE: Final = 48_000  # Hz
FRAME_MS: Final = 20
UNDER_WAY_MS: Final = 200  # of audio, on either side of the echo


class _Invitation(msgspec.Struct, frozen=True):
    url: str
    token: str


class EchoAgent:
    """All of its rooms; made and used on one event loop.

    Args:
        keys: API keys and their secrets, whose tokens are accepted.
        max_rooms: how many it enters at once.
        alone_s: how long it waits for a user, in seconds.
    """

    def __init__(self, keys: Mapping[str, str], *, max_rooms: int = MAX_ROOMS, alone_s: float = ALONE_S) -> None:
        self._keys = dict(keys)
        self._max_rooms = max_rooms
        self._alone_s = alone_s
        self._visits: dict[str, _Visit] = {}
        self._closing = False

    @property
    def rooms(self) -> frozenset[str]:
        """The names of the rooms that it is in, or on its way to."""
        return frozenset(self._visits)

    def application(self) -> web.Application:
        """Return its door."""
        application = web.Application(client_max_size=MAX_BODY)
        application.add_routes([web.post("/join", self._on_join), web.get("/healthz", self._on_health)])
        return application

    async def aclose(self) -> None:
        """Leave every room, within ``LEAVE_S``, and enter no more."""
        self._closing = True
        leaving = [visit.leave() for visit in self._visits.values()]
        if leaving:
            await asyncio.wait(leaving, timeout=LEAVE_S)

    async def _on_health(self, _request: web.Request) -> web.Response:
        return web.json_response({"rooms": len(self._visits), "max_rooms": self._max_rooms})

    async def _on_join(self, request: web.Request) -> web.Response:
        """Answer 202 once it is on its way, 400, 401, or 503 where it can enter no further room."""
        try:
            invitation = msgspec.json.decode(await request.read(), type=_Invitation)
        except msgspec.MsgspecError:
            return _answer(400, "The body must be JSON with url and token.")
        if not invitation.url.startswith(("ws://", "wss://")):
            return _answer(400, "The url must begin with ws:// or wss://.")
        try:
            allowed = tokens.read_agent_token(invitation.token, self._keys)
        except tokens.WrongToken as error:
            logger.warning("a token opens no room", extra={"error": str(error)})
            return _answer(401, "The token opens no room for an agent.")
        before = self._visits.get(allowed.room)
        if before is not None and before.is_well:
            return _answer(202, "It is there already.")
        if self._closing or (before is None and len(self._visits) >= self._max_rooms):
            return _answer(503, "It can enter no further room.")
        visit = _Visit(allowed.room, invitation, alone_s=self._alone_s, after=before.leave() if before is not None else None)
        self._visits[allowed.room] = visit
        visit.begin(on_end=lambda: self._forget(allowed.room, visit))
        return _answer(202, "It is on its way.")

    def _forget(self, room: str, visit: "_Visit") -> None:
        if self._visits.get(room) is visit:
            del self._visits[room]


class _Visit:
    """One stay in one room.

    Args:
        name: The room's.
        invitation: Where it is, and what opens it.
        alone_s: how long it waits for somebody else.
        after: an earlier stay in the same room, which has to end first: two of one identity throw each other out.
    """

    def __init__(self, name: str, invitation: _Invitation, *, alone_s: float, after: asyncio.Task[None] | None) -> None:
        self._name = name
        self._invitation = invitation
        self._alone_s = alone_s
        self._after = after
        self._room = rtc.Room()
        self._source = rtc.AudioSource(SAMPLE_RATE, 1, queue_size_ms=UNDER_WAY_MS)
        self._over = asyncio.Event()
        self._echo: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._alone: asyncio.TimerHandle | None = None
        self._is_entering = True
        self._late: asyncio.Task[None] | None = None

    @property
    def is_well(self) -> bool:
        """Whether it is on its way, or connected; not while it tries to come back."""
        return not self._over.is_set() and (self._is_entering or self._room.connection_state == rtc.ConnectionState.CONN_CONNECTED)

    def begin(self, *, on_end: Callable[[], None]) -> None:
        """Go there."""
        self._task = asyncio.get_running_loop().create_task(self._stay())
        self._task.add_done_callback(lambda _: on_end())

    def leave(self) -> asyncio.Task[None]:
        """Begin to leave; the task that is returned ends when it has left."""
        assert self._task is not None
        self._over.set()
        return self._task

    async def _stay(self) -> None:
        if self._after is not None:
            await asyncio.wait({self._after}, timeout=LEAVE_S)
        try:
            if await self._enter():
                logger.info("the echo agent is in a room", extra={"room": self._name})
                await self._over.wait()
        except Exception as error:  # noqa: BLE001 - what the SDK raises
            # Of the SDK's errors one has the whole token in its text.
            logger.warning("the echo agent could not stay", extra={"room": self._name, "error": self._told(error)})
        finally:
            self._over.set()
            await self._go()
            logger.info("the echo agent has left a room", extra={"room": self._name})

    async def _enter(self) -> bool:
        """Connect and publish; False: it is over before that."""
        # Names of events and of what is passed with them are the SDK's.
        self._room.on("track_subscribed", self._on_track)
        self._room.on("disconnected", lambda *_: self._over.set())
        self._room.on("participant_connected", lambda *_: self._look_around())
        self._room.on("participant_disconnected", lambda *_: self._look_around())
        # Never cancelled: the SDK would go on by itself, and leave somebody in the room whom nobody can take out again.
        connecting = asyncio.ensure_future(self._room.connect(self._invitation.url, self._invitation.token))
        try:
            await asyncio.wait({connecting}, timeout=JOIN_S)
            if not connecting.done():
                connecting.add_done_callback(self._regret)
                raise TimeoutError
            await connecting
        finally:
            self._is_entering = False
        if self._over.is_set():
            return False
        track = rtc.LocalAudioTrack.create_audio_track("echo", self._source)
        options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE)
        async with asyncio.timeout(JOIN_S):
            await self._room.local_participant.publish_track(track, options)
        self._look_around()
        return True

    def _regret(self, connected: asyncio.Future[None]) -> None:
        """Leave a room that was entered too late."""
        if not connected.cancelled() and connected.exception() is None:
            self._late = asyncio.get_running_loop().create_task(self._room.disconnect())

    async def _go(self) -> None:
        if self._alone is not None:
            self._alone.cancel()
        if self._echo is not None:
            self._echo.cancel()
            await asyncio.wait({self._echo})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                await self._room.disconnect()
        await self._source.aclose()

    def _on_track(self, track: rtc.Track, _publication: Any, participant: rtc.RemoteParticipant) -> None:
        """Echo the newest audio of whoever is no agent."""
        if track.kind != rtc.TrackKind.KIND_AUDIO or participant.kind == rtc.ParticipantKind.PARTICIPANT_KIND_AGENT:
            return
        if self._echo is not None:
            self._echo.cancel()
        self._echo = asyncio.ensure_future(self._repeat(track))

    async def _repeat(self, track: rtc.Track) -> None:
        stream = rtc.AudioStream.from_track(
            track=track, sample_rate=SAMPLE_RATE, num_channels=1, frame_size_ms=FRAME_MS, capacity=UNDER_WAY_MS // FRAME_MS
        )
        try:
            async for heard in stream:
                await self._source.capture_frame(heard.frame)
        except Exception as error:  # noqa: BLE001 - what the SDK raises
            logger.warning("the echo broke off", extra={"room": self._name, "error": self._told(error)})
            self._over.set()
        finally:
            await stream.aclose()

    def _look_around(self) -> None:
        """Leave after a while in which nobody was there but agents."""
        people = [each for each in self._room.remote_participants.values() if each.kind != rtc.ParticipantKind.PARTICIPANT_KIND_AGENT]
        if self._alone is not None:
            self._alone.cancel()
            self._alone = None
        if not people:
            self._alone = asyncio.get_running_loop().call_later(self._alone_s, self._over.set)

    def _told(self, error: BaseException) -> str:
        return f"{type(error).__name__}: {getattr(error, 'message', error)}".replace(self._invitation.token, "…")[:300]


async def serve(agent: EchoAgent, listener: socket.socket, stop: asyncio.Event) -> None:
    """Answer at this door until ``stop`` is set, then leave every room."""
    runner = web.AppRunner(agent.application(), access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        await stop.wait()
        await agent.aclose()
    finally:
        await runner.cleanup()


def _answer(status: int, message: str) -> web.Response:
    return web.json_response({"message": message}, status=status)
