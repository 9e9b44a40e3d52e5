"""One session whose client enters a room by itself, as far as a connection to this process is concerned.

Owns: the way to the room, and what the client is told of it: where it is, that it was made again, how it ended. The session itself lives
by what the provider says (``room_keeper``), on whichever node: a connection that drops leaves it as it is, unless the user has not
joined yet. ``session.stop`` ends it; closing the socket does not.
Refuses: audio, grace and deadlines, which are the room's.
Limits: a client without this connection hears of nothing; it sees its room.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import psycopg
from django.db import Error as DatabaseError

from sessions_app.domain.operations import End, Resumed
from sessions_app.domain.states import Reason
from sessions_app.domain.world import Attempt
from sessions_app.providers.base import RoomProvider
from sessions_app.providers.exceptions import ProviderError
from sessions_app.runtime import telemetry
from sessions_app.runtime.attachment import Attachment, Ended, Leaving, Replaced, Started
from sessions_app.runtime.database import in_thread
from sessions_app.runtime.presence import Home
from sessions_app.runtime.provider_side import Opens
from sessions_app.runtime.room_side import RoomSide
from sessions_app.runtime.session_runner import TOLD_AFTER_S, SessionRunner
from sessions_app.runtime.way_in import NOT_AN_END, Ending, Way
from sessions_app.selectors import rooms as rooms_now
from sessions_app.selectors.rooms import RoomNow
from sessions_app.services import ending as endings
from sessions_app.services import rooms
from sessions_app.services.exceptions import VoiceError

logger = logging.getLogger(__name__)

_AWAY: Final = (DatabaseError, psycopg.Error)
CLOSED_S: Final = 1.0  # a client that closed its socket before its user joined: the joining may be on its way


class RoomRunner(SessionRunner):
    """As ``SessionRunner``."""

    _activates = False

    def __init__(
        self, *, home: Home, find: Opens, attempt: Attempt, metadata: Mapping[str, object], resumed: Resumed | None = None
    ) -> None:
        self._room = RoomSide(find=find, attempt=attempt, metadata=metadata)
        super().__init__(home=home, find=find, attempt=attempt, metadata=metadata, resumed=resumed, side=self._room)
        self._home = home
        self._left: asyncio.Task[None] | None = None

    @property
    def in_room(self) -> bool:
        """Whether the client was told where its room is."""
        return self._started is not None and not self.over

    # --- what connections do -------------------------------------------------------------------------------------------------
    def detach(self, attachment: Attachment, *, stopped: bool, closed: bool = False) -> None:
        """Forget a connection that is gone. What that means for the session is the room's matter, once there is one."""
        if attachment is not self._attachment or self._started is None:
            super().detach(attachment, stopped=stopped, closed=closed)
            return
        self._attachment = None
        self._leave_alone(closed=stopped or closed)

    def _leave_alone(self, *, closed: bool) -> None:
        """Nobody is connected to it any more. Where the user has not joined, they have little time left to."""
        wait_s = CLOSED_S if closed else self._policy.grace_s
        self._left = self._loop.create_task(self._hurry(wait_s))
        self._course.end(Ending(Reason.CLIENT_LOST, way=Way.HAND_OVER))

    async def _hurry(self, seconds: float) -> None:
        try:
            await in_thread(rooms.hurry, session_id=self.attempt.session_id, seconds=seconds)
        except _AWAY:
            logger.warning("a lost connection could not be noted", extra=self._course.fields())

    def leave(self, *, hand_over: bool) -> None:
        """Leave the session, since this process goes down: its room needs no process."""
        if self._started is None:
            super().leave(hand_over=hand_over)
        elif hand_over:
            self._course.end(Ending(Reason.DRAINED, way=Way.HAND_OVER))
        else:
            self.finish(Reason.DRAINED)

    async def room_is(self, now: RoomNow) -> None:
        """Tell the client where its room is, where it was made again or is elsewhere now."""
        if not self.in_room or self._started is None or now.generation <= self._room.generation:
            return
        try:
            await self._room.follow(now)
        except ProviderError as error:
            logger.warning("a room that was made again cannot be told of", extra={**self._course.fields(), "error": str(error)})
            return
        self._started = replace(self._started, backend=now.backend)
        if self._attachment is not None:
            self._back_at, self._gap_ms = self._loop.time(), 0
            self._tell_started(self._attachment)

    # --- the way of the session ------------------------------------------------------------------------------------------------
    def _go_live(self) -> None:
        admitted, session = self._course.admitted, self._room.session
        if admitted is None or session is None:
            raise RuntimeError("a client is told of a room that there is")
        self._started = Started(
            session_id=self.attempt.session_id,
            backend=admitted.backend.name if admitted.backend else "",
            pipeline=admitted.pipeline,
            transport=self.attempt.transport,
            audio=None,
            policy=admitted.policy,
        )
        logger.info("session has its room", extra=self._course.fields(admitted))
        self._course.trace.close()
        if self._attachment is not None:
            self._tell_started(self._attachment)
        elif not self._kept:  # else its client is on the way back, and is told when it is here
            self._leave_alone(closed=self._was_closed)

    def _client(self) -> Mapping[str, object]:
        """A token of its own for each connection, since one lives for a minute."""
        provider = self._room.provider
        return provider.rejoin(self.attempt.session_id) if isinstance(provider, RoomProvider) else {}

    # --- the end -----------------------------------------------------------------------------------------------------------------
    async def _wind_up(self, ending: Ending) -> None:
        if ending.way is not Way.END or not self._course.holds_slot:
            await super()._wind_up(ending)
            return
        self._stop_timers()
        ending = await self._decided(ending)
        with self._course.trace.step("voice.provider.close"):
            await self._side.close()
        told = self._loop.create_task(self._tell_ledger(ending))
        await asyncio.wait({told}, timeout=TOLD_AFTER_S)
        await self._tell_outcome(ending)
        await told
        # Whoever looks after the room closes its record, and removes it again where that has failed here.
        self._home.rooms.put([self.attempt.session_id])

    async def _let_go(self, ending: Ending) -> None:
        """The room goes on without this connection."""
        attachment = self._attachment
        if self._left is not None:
            await self._left
        if attachment is not None:
            attachment.tell(Leaving() if ending.way is Way.HAND_OVER else Replaced())

    async def _decided(self, ending: Ending) -> Ending:
        """Write why it ends before its room is removed: the provider will tell of that, and must not be taken at its word."""
        try:
            decided = await in_thread(
                endings.decide, session_id=self.attempt.session_id, reason=_of_session(ending), detail=ending.detail, actor=ending.actor
            )
        except _AWAY:
            return ending
        if decided is None or decided.reason == _of_session(ending):
            return ending
        return replace(ending, reason=decided.reason, detail=decided.detail, actor=decided.actor)

    async def _tell_ledger(self, ending: Ending) -> None:
        end = End(self.attempt.session_id, _of_session(ending), detail=ending.detail, actor=ending.actor)
        try:
            ended_here = await self._submit_end(end)
        except VoiceError as error:
            logger.error("session's end could not be recorded", extra={**self._course.fields(), "error": str(error)})  # noqa: TRY400
            return
        if ended_here:
            outcome = await self._outcome()
            telemetry.ended(end.reason, outcome.active_s if outcome is not None else 0.0)
            logger.info("session over", extra={**self._course.fields(), "reason": end.reason.value})

    async def _tell_outcome(self, ending: Ending) -> None:
        """Tell the client what the history says, where it can be asked."""
        outcome = await self._outcome()
        if self._started is None or outcome is None or self._attachment is None:
            self._tell_client(ending)
            return
        self._attachment.tell(Ended(outcome.reason, round(outcome.active_s * 1000)))

    async def _outcome(self) -> rooms_now.Outcome | None:
        try:
            return await in_thread(rooms_now.outcome, session_id=self.attempt.session_id)
        except _AWAY:
            return None


def _of_session(ending: Ending) -> Reason:
    return NOT_AN_END.get(ending.reason, ending.reason)
