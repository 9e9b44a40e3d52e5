"""One session from its attempt to its end, whoever is connected to it.

Owns: the order of things: admission, opening the provider, active, audio, the end. It ends from any side, and exactly once: the first
reason counts, the provider is closed (5 s at most), then the ledger is told, and then the client. A connection is only attached; it may
drop and come back within the grace, or be replaced by a newer one. A session whose client came back elsewhere is given way to, and one
whose process goes down is handed over: both go on without this runner.
Refuses: SQL (it submits operations), frames of the WebSocket (it tells words), waiting for a client.
Limits: the provider's stream lives in the process that opened it; who takes a session over opens it again. What the ledger has not heard
(the store is away) is kept and submitted until it has.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Final
from uuid import UUID

from sessions_app.domain.operations import Admit, Admitted, End, Policy, Resumed, Suspend
from sessions_app.domain.states import Reason, State
from sessions_app.domain.world import Attempt
from sessions_app.runtime.attachment import Attachment, Ended, Leaving, Rejected, Replaced, Started
from sessions_app.runtime.presence import Back, Home, Presence
from sessions_app.runtime.provider_side import Opens, ProviderSide
from sessions_app.runtime.relay import Relay
from sessions_app.runtime.telemetry import UNTRACED
from sessions_app.runtime.way_in import NOT_AN_END, Course, Ending, Way, WayIn
from sessions_app.selectors.places import Standing
from sessions_app.services.exceptions import VoiceError

logger = logging.getLogger(__name__)

TOLD_AFTER_S: Final = 2.0  # the client hears of the end when the slot is free, or after this


class SessionRunner:
    """Runs one session; every method but ``run`` is called from the same event loop and returns at once.

    Args:
        home: The process that it runs in.
        find: Finds the provider of a backend.
        attempt: Who wants which session.
        metadata: The client's own.
        resumed: What the ledger answered where the session is taken over from another process.
        side: The provider's side, where it is of another kind.

    Attributes:
        errors: What the session's clients did wrong so far; kept by the transport.
    """

    _activates = True  # open is active: where media passes through here, nobody else could say so

    def __init__(
        self,
        *,
        home: Home,
        find: Opens,
        attempt: Attempt,
        metadata: Mapping[str, object],
        resumed: Resumed | None = None,
        side: ProviderSide | None = None,
    ) -> None:
        self.attempt = attempt
        self.errors = 0
        self._presence = Presence(home=home, session_id=attempt.session_id)
        self._ledger = home.batcher
        self._side = side or ProviderSide(find=find, attempt=attempt, metadata=metadata)
        self._loop = asyncio.get_running_loop()
        holds = resumed is not None and resumed.state is not State.QUEUED
        over: asyncio.Future[Ending] = self._loop.create_future()
        self._course = Course(attempt, metadata, home, self._presence, self._side, over, resumed, holds_slot=holds, is_active=holds)
        self._attachment: Attachment | None = None
        self._relay: Relay | None = None
        self._started: Started | None = None
        self._active_at = 0.0
        self._back_at: float | None = None  # when the client came back that is still to be told how long it was away
        self._gap_ms = 0
        self._dropped_at: float | None = None
        self._was_closed = False  # by its client, when it dropped last
        self._kept = False  # it has had its slot while its client was on the way back, and nobody came yet
        self._timers: dict[str, asyncio.TimerHandle] = {}

    # --- what connections and operators do ---------------------------------------------------------------------------------
    @property
    def over(self) -> bool:
        """Whether the session has ended, or is about to."""
        return self._course.is_over

    @property
    def reason(self) -> Reason | None:
        """Why it is over; None while it is not."""
        return self._course.over.result().reason if self._course.is_over else None

    @property
    def connection(self) -> int:
        """The number of the newest connection."""
        return self._presence.connection

    @property
    def carried(self) -> bool:
        """Whether the ledger has the session as this process's."""
        return self._course.holds_slot and not self.over

    @property
    def waits(self) -> bool:
        """Whether the session is in the queue."""
        return self._course.waiting is not None and not self._course.waiting.promoted.done() and not self.over

    @property
    def gave_way(self) -> bool:
        """Whether another process has the session now."""
        return self._course.is_over and self._course.over.result().way is not Way.END

    def would_take(self, tenant_id: int, user: str, shown: int | None) -> bool:
        """Whether a resume token is good, as far as this process knows."""
        mine = (self.attempt.tenant_id, self.attempt.user) == (tenant_id, user)
        return mine and self._presence.would_take(shown)

    def attach(self, attachment: Attachment, *, back: Back | None = None) -> None:
        """Make this the session's connection; the one before is told that it was replaced. ``back``: it came with a resume token."""
        before, self._attachment = self._attachment, attachment
        if self._course.trace is UNTRACED:
            self._course.trace = attachment.trace
        if before is not None:
            before.listen(None)
            before.tell(Replaced())
        self._presence.came(back)
        dropped_at, self._dropped_at = self._dropped_at, None
        if (grace := self._timers.pop("grace", None)) is not None:
            grace.cancel()
        now = self._loop.time()
        # Who waited here has not started yet, and does not come back to a call, whenever it got its slot.
        is_back = back is not None and (self._course.waiting is None or self._started is not None)
        self._back_at = now if is_back else None
        if back is not None:
            self._gap_ms = round((now - dropped_at) * 1000) if dropped_at is not None else back.gap_ms
        if self._started is not None and not self.over:
            self._tell_started(attachment)
        elif self._course.waiting is not None and not self.over:
            self._course.waiting.tell(attachment, self.connection)

    def detach(self, attachment: Attachment, *, stopped: bool, closed: bool = False) -> None:
        """Forget a connection that is gone.

        Args:
            attachment: Which.
            stopped: Its client closed it with 1000, so the session is completed.
            closed: It was closed in order, with whatever code.
        """
        if attachment is not self._attachment:
            return
        self._attachment = None
        attachment.listen(None)
        if stopped:
            self.finish(Reason.COMPLETED)
        elif not self.over:
            self._was_closed = closed
            self._dropped_at = self._loop.time()
            self._presence.went()
            self._begin_grace()

    def hear(self, frame: bytes) -> None:
        """Take audio from the client."""
        if self._relay is not None:
            self._relay.take(frame)

    def finish(self, reason: Reason, detail: str = "", *, actor: str = "") -> None:
        """End the session; the first call counts."""
        self._course.finish(reason, detail, actor=actor)

    def placed(self, standing: Standing) -> None:
        """Note the session's place in the queue, and how long it may wait by the quota as it is now."""
        if self._course.waiting is not None and self.waits:
            self._course.waiting.limit(standing.max_wait_s)
            self._course.waiting.place(standing.position, standing.estimated_wait_s, tell=self._attachment, connection=self.connection)

    def promoted(self, admitted: Admitted) -> None:
        """Go on with the slot that the ledger gave to the session while it waited."""
        if self._course.waiting is not None:
            self._course.waiting.promote(admitted)

    async def ask_again(self) -> None:
        """Ask what became of the attempt: it was promoted, and the word of it was lost."""
        try:
            answer = await self._ledger.submit(Admit(self.attempt, self._presence.node_id))
        except VoiceError:
            return  # the next look asks again
        if answer.state is State.STARTING and not answer.spent:
            self.promoted(answer)

    def expect(self, change: int) -> None:
        """A client is coming back to this session (1), or has been answered (-1)."""
        self._presence.expect(change)
        if self._kept and not self._presence.expected:
            self._kept = False
            if self._attachment is None:
                self.finish(Reason.CLIENT_LOST)  # as it would have been without it

    def confirm(self) -> None:
        """Note that the newest connection has sent a frame: the resume tokens of those before are good no more."""
        self._presence.confirm()

    def leave(self, *, hand_over: bool) -> None:
        """Leave the session, since this process goes down: to another node where there is one, and the session can wait for it."""
        if not self._course.is_active and not self.waits:
            self.finish(Reason.NODE_DRAINING)
        elif hand_over:
            self._course.end(Ending(Reason.DRAINED, way=Way.HAND_OVER))
        else:
            self.finish(Reason.DRAINED)

    def give_way(self) -> None:
        """Let the session go: another node has it."""
        self._course.end(Ending(Reason.NODE_LOST, way=Way.GIVE_WAY))

    def move_to(self, node_id: UUID, *, was: UUID) -> None:
        """Belong to another node id from now on; the ledger has taken this session's client for gone, so it is told otherwise."""
        self._presence.moved(node_id, was=was)

    # --- the way of the session ----------------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Run the session until it is over and the ledger knows it."""
        way_in = WayIn(self._course, on_waiting=self._begin_grace, on_promoted=self._stop_waiting, activates=self._activates)
        try:
            if await way_in.go():
                self._go_live()
            await self._course.over
        except Exception as error:
            # A defect of ours costs this session, and must not cost its slot too.
            logger.exception("session failed unexpectedly", extra=self._course.fields())
            self.finish(Reason.PROVIDER_FAILED, f"unexpected {type(error).__name__}")
        await self._wind_up(self._course.over.result())

    def _go_live(self) -> None:
        admitted, provider, session = self._course.admitted, self._side.provider, self._side.session
        if admitted is None or provider is None or session is None:
            raise RuntimeError("a session goes live when it is open")
        policy = admitted.policy
        active_s = self._course.resumed.active_s if self._course.resumed is not None else 0.0
        self._active_at = self._loop.time() - active_s
        if provider.capabilities.relayed:
            self._relay = Relay(provider, session, on_end=self.finish)
            self._relay.start()
            if policy.idle_timeout_s is not None:
                self._watch_silence(policy.idle_timeout_s)
        if policy.max_duration_s is not None:
            self._timers["max"] = self._loop.call_later(max(0.0, policy.max_duration_s - active_s), self.finish, Reason.MAX_DURATION)
        self._started = Started(
            session_id=self.attempt.session_id,
            backend=admitted.backend.name if admitted.backend else "",
            pipeline=admitted.pipeline,
            transport=self.attempt.transport,
            audio=session.audio,
            policy=policy,
        )
        logger.info("session active", extra=self._course.fields(admitted))
        self._presence.begin()
        self._course.trace.close()
        if self._attachment is not None:
            self._tell_started(self._attachment)
        else:
            self._begin_grace()

    # --- timers and the client's coming and going ----------------------------------------------------------------------------
    def _watch_silence(self, idle_s: int) -> None:
        """One timer that looks again when the silence could be over, instead of one that every frame moves."""
        relay = self._relay
        left = idle_s if relay is None else relay.heard_at + idle_s - self._loop.time()
        if left <= 0:
            self.finish(Reason.IDLE_TIMEOUT)
            return
        self._timers["idle"] = self._loop.call_later(left, self._watch_silence, idle_s)

    def _stop_waiting(self) -> bool:
        """It has a slot: it has not started yet, whoever comes back. Return whether its client is here, or just coming back."""
        self._back_at = None
        if (grace := self._timers.pop("grace", None)) is not None:
            grace.cancel()
        self._kept = self._attachment is None and self._presence.expected
        return self._attachment is not None or self._kept

    def _begin_grace(self) -> None:
        """Count the grace from the drop, once the session is one that can be suspended."""
        if self._dropped_at is None or (self._started is None and not self.waits):
            return
        ends_at = self._dropped_at + self._policy.grace_s
        self._timers["grace"] = self._loop.call_at(ends_at, self.finish, Reason.CLIENT_LOST)

    @property
    def _policy(self) -> Policy:
        return self._course.admitted.policy if self._course.admitted is not None else Policy(None, None, 0)

    def _tell_started(self, attachment: Attachment) -> None:
        if self._started is None:
            return
        attachment.listen(self._relay.downlink if self._relay is not None else None)
        gap_ms = None
        if self._back_at is not None:
            gap_ms = self._gap_ms + round((self._loop.time() - self._back_at) * 1000)
        attachment.tell(replace(self._started, connection=self.connection, gap_ms=gap_ms, client=self._client()))

    def _client(self) -> Mapping[str, object]:
        """What its client needs to reach the backend by itself: nothing."""
        return {}

    # --- the end ---------------------------------------------------------------------------------------------------------------
    async def _wind_up(self, ending: Ending) -> None:
        self._stop_timers()
        if self._relay is not None:
            await self._relay.stop()
        if ending.way is not Way.END:
            await self._let_go(ending)
            return
        with self._course.trace.step("voice.provider.close"):
            await self._side.close()
        told = self._loop.create_task(self._tell_ledger(ending))
        if self._course.admitted is not None:
            await asyncio.wait({told}, timeout=TOLD_AFTER_S)
        self._tell_client(ending)
        # The store may be away: the session stays known here, so that its token starts no second one meanwhile.
        await told

    def _stop_timers(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._presence.stop()

    async def _let_go(self, ending: Ending) -> None:
        """Leave the session to another process: tell the ledger first, so that its client finds it waiting, then the client."""
        attachment = self._attachment
        if ending.way is Way.HAND_OVER:
            logger.info("session handed over", extra=self._course.fields())
            told = self._loop.create_task(self._suspend_for_others())
            await asyncio.wait({told}, timeout=TOLD_AFTER_S)
            if attachment is not None:
                attachment.tell(Leaving())
            await self._close_own_side()
            await told
            return
        logger.info("session goes on elsewhere", extra=self._course.fields())
        if attachment is not None:
            attachment.tell(Replaced())
        await self._close_own_side()

    async def _suspend_for_others(self) -> None:
        try:
            await self._ledger.submit(Suspend(self.attempt.session_id, self._presence.node_id, Reason.DRAINED))
        except VoiceError as error:
            logger.warning("session could not be handed over", extra={**self._course.fields(), "error": str(error)})

    async def _close_own_side(self) -> None:
        """Close the stream through this process; what a backend holds by itself, without the platform's relay, goes on."""
        provider = self._side.provider
        if provider is None or provider.capabilities.relayed:
            await self._side.close()

    async def _tell_ledger(self, ending: Ending) -> None:
        if not self._course.holds_slot and self._course.waiting is None:
            return
        reason, detail = ending.reason, ending.detail
        if reason in NOT_AN_END:
            reason, detail = NOT_AN_END[reason], detail or f"{ending.reason.value} while it was being started"
        try:
            active_s = self._loop.time() - self._active_at if self._started is not None else 0.0
            with self._course.trace.end(reason, active_s=active_s):
                await self._submit_end(
                    End(self.attempt.session_id, reason, detail=detail, actor=ending.actor, node_id=self._presence.node_id)
                )
        except VoiceError as error:
            logger.error("session's end could not be recorded", extra={**self._course.fields(), "error": str(error)})  # noqa: TRY400
            return
        logger.info("session over", extra={**self._course.fields(), "reason": reason.value, "dropped": self._dropped_frames()})

    async def _submit_end(self, end: End) -> bool:
        """Submit the end; False: the session has ended before, or another node has it.

        Raises:
            VoiceError: the ledger could not be asked.
        """
        ended = await self._ledger.submit(end)
        if not ended and end.reason is Reason.QUEUE_TIMEOUT:
            # It may have been promoted as its time ran out. No longest wait ends what has a slot, and nobody is here to use that.
            late = replace(end, reason=Reason.CLIENT_LOST, detail="its longest wait was over as it got its slot")
            ended = await self._ledger.submit(replace(late, node_id=self._presence.node_id))
        return ended

    def _tell_client(self, ending: Ending) -> None:
        attachment = self._attachment
        if attachment is None:
            return
        if self._started is None and ending.reason is not Reason.COMPLETED:
            attachment.tell(Rejected(ending.reason, ending.retry_after_s, ending.limits))
            return
        duration_ms = round((self._loop.time() - self._active_at) * 1000) if self._started is not None else 0
        attachment.tell(Ended(ending.reason, duration_ms))

    def _dropped_frames(self) -> int:
        return self._relay.uplink.dropped + self._relay.downlink.dropped if self._relay is not None else 0
