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
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final
from uuid import UUID

from sessions_app.domain.admission import Attempt, Limit, Verdict
from sessions_app.domain.operations import Activate, Admit, Admitted, End, Move, Policy, Resume, Resumed, Suspend
from sessions_app.domain.states import Reason, State
from sessions_app.providers.exceptions import ProviderError
from sessions_app.runtime.attachment import Attachment, Ended, Leaving, Rejected, Replaced, Started
from sessions_app.runtime.presence import Back, Home, Presence
from sessions_app.runtime.provider_side import Opens, ProviderSide
from sessions_app.runtime.relay import Relay, reason_of
from sessions_app.runtime.telemetry import UNTRACED
from sessions_app.runtime.waiting import Waiting
from sessions_app.services.exceptions import Unavailable, VoiceError

logger = logging.getLogger(__name__)

MAX_BACKENDS: Final = 3  # that are tried for one session before it fails
TOLD_AFTER_S: Final = 2.0  # the client hears of the end when the slot is free, or after this
FATE_S: Final = 3.0  # how long to wait for the reason why the ledger has a session no more


class Way(Enum):
    """How a session leaves this runner."""

    END = 1
    HAND_OVER = 2  # it waits in the ledger for its client, on any node
    GIVE_WAY = 3  # another node has it already


@dataclass(frozen=True, slots=True)
class Ending:
    """Why it is over, and what a refused client is told besides."""

    reason: Reason
    detail: str = ""
    actor: str = ""
    retry_after_s: int | None = None
    limits: tuple[Limit, ...] = ()
    way: Way = Way.END


class SessionRunner:
    """Runs one session; every method but ``run`` is called from the same event loop and returns at once.

    Args:
        home: The process that it runs in.
        find: Finds the provider of a backend.
        attempt: Who wants which session.
        metadata: The client's own.
        resumed: What the ledger answered where the session is taken over from another process.

    Attributes:
        errors: What the session's clients did wrong so far; kept by the transport.
    """

    def __init__(
        self, *, home: Home, find: Opens, attempt: Attempt, metadata: Mapping[str, object], resumed: Resumed | None = None
    ) -> None:
        self.attempt = attempt
        self.errors = 0
        self._home = home
        self._presence = Presence(home=home, session_id=attempt.session_id)
        self._ledger = home.batcher
        self._metadata = metadata
        self._trace = UNTRACED
        self._resumed = resumed
        self._side = ProviderSide(find=find, attempt=attempt, metadata=metadata)
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[Ending] = self._loop.create_future()
        self._attachment: Attachment | None = None
        self._admitted: Admitted | None = None
        self._holds_slot = self._is_active = resumed is not None and resumed.state is not State.QUEUED
        self._waiting: Waiting | None = None
        self._relay: Relay | None = None
        self._started: Started | None = None
        self._active_at = 0.0
        self._back_at: float | None = None  # when the client came back that is still to be told how long it was away
        self._gap_ms = 0
        self._dropped_at: float | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}

    # --- what connections and operators do ---------------------------------------------------------------------------------
    @property
    def over(self) -> bool:
        """Whether the session has ended, or is about to."""
        return self._over.done()

    @property
    def reason(self) -> Reason | None:
        """Why it is over; None while it is not."""
        return self._over.result().reason if self._over.done() else None

    @property
    def connection(self) -> int:
        """The number of the newest connection."""
        return self._presence.connection

    @property
    def carried(self) -> bool:
        """Whether the ledger has the session as this process's."""
        return self._holds_slot and not self.over

    @property
    def waits(self) -> bool:
        """Whether the session is in the queue."""
        return self._waiting is not None and not self._waiting.promoted.done() and not self.over

    @property
    def gave_way(self) -> bool:
        """Whether another process has the session now."""
        return self._over.done() and self._over.result().way is not Way.END

    def would_take(self, tenant_id: int, user: str, shown: int | None) -> bool:
        """Whether a resume token is good, as far as this process knows."""
        mine = (self.attempt.tenant_id, self.attempt.user) == (tenant_id, user)
        return mine and self._presence.would_take(shown)

    def attach(self, attachment: Attachment, *, back: Back | None = None) -> None:
        """Make this the session's connection; the one before is told that it was replaced. ``back``: it came with a resume token."""
        before, self._attachment = self._attachment, attachment
        if self._trace is UNTRACED:
            self._trace = attachment.trace
        if before is not None:
            before.listen(None)
            before.tell(Replaced())
        self._presence.came(back)
        dropped_at, self._dropped_at = self._dropped_at, None
        if (grace := self._timers.pop("grace", None)) is not None:
            grace.cancel()
        now = self._loop.time()
        self._back_at = now if back is not None else None
        if back is not None:
            self._gap_ms = round((now - dropped_at) * 1000) if dropped_at is not None else back.gap_ms
        if self._started is not None and not self.over:
            self._tell_started(attachment)
        elif self._waiting is not None and not self.over:
            self._waiting.tell(attachment, self.connection)

    def detach(self, attachment: Attachment, *, stopped: bool) -> None:
        """Forget a connection that is gone. ``stopped``: its client closed it in order, so the session is completed."""
        if attachment is not self._attachment:
            return
        self._attachment = None
        attachment.listen(None)
        if stopped:
            self.finish(Reason.COMPLETED)
        elif not self.over:
            self._dropped_at = self._loop.time()
            self._presence.went()
            self._begin_grace()

    def hear(self, frame: bytes) -> None:
        """Take audio from the client."""
        if self._relay is not None:
            self._relay.take(frame)

    def finish(self, reason: Reason, detail: str = "", *, actor: str = "") -> None:
        """End the session; the first call counts."""
        self._finish(Ending(reason, detail, actor))

    def placed(self, position: int, estimate_s: float | None) -> None:
        """Note the session's place in the queue."""
        if self._waiting is not None and self.waits:
            self._waiting.place(position, estimate_s, tell=self._attachment, connection=self.connection)

    def promoted(self, admitted: Admitted) -> None:
        """Go on with the slot that the ledger gave to the session while it waited."""
        if self._waiting is not None:
            self._waiting.promote(admitted)

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

    def confirm(self) -> None:
        """Note that the newest connection has sent a frame: the resume tokens of those before are good no more."""
        self._presence.confirm()

    def leave(self, *, hand_over: bool) -> None:
        """Leave the session, since this process goes down: to another node where there is one, and the session can wait for it."""
        if not self._is_active and not self.waits:
            self.finish(Reason.NODE_DRAINING)
        elif hand_over:
            self._finish(Ending(Reason.DRAINED, way=Way.HAND_OVER))
        else:
            self.finish(Reason.DRAINED)

    def give_way(self) -> None:
        """Let the session go: another node has it."""
        self._finish(Ending(Reason.NODE_LOST, way=Way.GIVE_WAY))

    def move_to(self, node_id: UUID, *, was: UUID) -> None:
        """Belong to another node id from now on; the ledger has taken this session's client for gone, so it is told otherwise."""
        self._presence.moved(node_id, was=was)

    # --- the way of the session ----------------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Run the session until it is over and the ledger knows it."""
        try:
            await self._begin()
            await self._over
        except Exception as error:
            # A defect of ours costs this session, and must not cost its slot too.
            logger.exception("session failed unexpectedly", extra=self._fields())
            self.finish(Reason.PROVIDER_FAILED, f"unexpected {type(error).__name__}")
        await self._wind_up(self._over.result())

    async def _begin(self) -> None:
        admitted = self._take_up(self._resumed) if self._resumed is not None else await self._admit()
        if admitted is not None and admitted.state is State.QUEUED:
            admitted = await self._wait(admitted)
        if admitted is None or self._over.done() or not await self._unless_over(self._open_some(admitted)):
            return
        if not self._is_active and not await self._activate():
            return
        self._go_live()

    async def _wait(self, queued: Admitted) -> Admitted | None:
        """Wait for a slot; None: the session is over before there is one."""
        waited_s = self._resumed.waited_s if self._resumed is not None else 0.0
        longest_s = None if queued.max_wait_s is None else queued.max_wait_s - waited_s
        self._waiting = waiting = Waiting(
            session_id=self.attempt.session_id, longest_s=longest_s, on_timeout=lambda: self.finish(Reason.QUEUE_TIMEOUT)
        )
        logger.info("session waits", extra=self._fields())
        self._presence.begin()
        self._begin_grace()
        self._home.look_now()
        either: set[asyncio.Future[Any]] = {waiting.promoted, self._over}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        waiting.close()
        if waiting.promoted.done():
            # Also when it is over meanwhile: the slot must be given back.
            self._holds_slot, self._admitted = True, waiting.promoted.result()
            self._presence.pause()
            self._resumed = self._back_at = None  # it has not started yet, whoever comes back
        if self.over or not waiting.promoted.done():
            return None
        if (grace := self._timers.pop("grace", None)) is not None:
            grace.cancel()
        if self._attachment is None:
            self.finish(Reason.CLIENT_LOST)  # somebody else can use the slot at once
            return None
        return self._admitted

    async def _activate(self) -> bool:
        try:
            with self._trace.step("voice.session.active"):
                self._is_active = await self._ledger.submit(Activate(self.attempt.session_id, self._presence.node_id))
        except VoiceError as error:
            # The slot is ours until the ledger says otherwise: it ends as failed there, and the client may try again.
            self._finish(Ending(error.reason, "the session could not be recorded as active"))
            return False
        if not self._is_active and not self.over:
            # Somebody ended it: what for is known within a second, where the database can be asked.
            self._home.look_now()
            await asyncio.wait({self._over}, timeout=FATE_S)
            self.finish(Reason.NODE_LOST, "the session was ended before it became active")
        return not self.over

    async def _admit(self) -> Admitted | None:
        try:
            with self._trace.admission() as asked:
                answer = await self._ledger.submit(Admit(self.attempt, self._presence.node_id, self._metadata, self._trace.id))
                asked.answered(answer)
        except VoiceError as error:
            # Where only the answer was lost there is a slot, and it must be given back.
            self._holds_slot = isinstance(error, Unavailable) and error.in_doubt
            self.finish(error.reason)
            return None
        verdict = answer.verdict
        if answer.spent:
            self.finish(Reason.AUTHENTICATION_FAILED)
        elif answer.attached and not self._is_own_answer(answer):
            return await self._take_over()
        elif answer.state is State.QUEUED:
            self._admitted = answer
            return answer
        elif verdict.reason is not None:
            logger.info("session refused", extra={**self._fields(), "reason": verdict.reason.value})
            self._finish(Ending(verdict.reason, retry_after_s=verdict.retry_after_s, limits=verdict.limits))
        else:
            self._holds_slot = True
            self._admitted = answer
            return answer
        return None

    async def _take_over(self) -> Admitted | None:
        """The connect token's session lives on another node: its client is here now."""
        attempt = self.attempt
        try:
            answer = await self._ledger.submit(Resume(attempt.session_id, self._presence.node_id, attempt.tenant_id, attempt.user))
        except VoiceError as error:
            self.finish(error.reason)
            return None
        if answer.refused is not None:
            self.finish(answer.refused)
            return None
        return self._take_up(answer)

    def _take_up(self, resumed: Resumed) -> Admitted:
        """Go on with a session that another process had."""
        self._holds_slot = self._is_active = resumed.state is not State.QUEUED
        self._resumed = resumed
        self._presence.taken_over(resumed)
        self._admitted = Admitted(
            self.attempt.session_id,
            Verdict(None, ()),
            resumed.state,
            self._presence.node_id,
            resumed.backend,
            resumed.pipeline,
            resumed.policy,
            attached=True,
            max_wait_s=resumed.max_wait_s,
        )
        return self._admitted

    def _is_own_answer(self, answer: Admitted) -> bool:
        """Whether it was this attempt that got the slot, and its first answer was lost: there is no other runner of it in this process."""
        return answer.node_id == self._presence.node_id and answer.state in {State.STARTING, State.QUEUED}

    async def _open_some(self, admitted: Admitted) -> bool:
        """Open the backend that the slot is on, or else the next healthy one, within bounds. False: the session is over."""
        failed: frozenset[int] = frozenset()
        while True:
            try:
                with self._trace.step("voice.provider.open", backend=admitted.backend.name if admitted.backend else ""):
                    await self._side.open(admitted)
            except ProviderError as error:
                logger.warning("backend could not be opened", extra={**self._fields(admitted), "error": str(error)})
                await self._side.close()
                failed |= {admitted.backend.id} if admitted.backend else set()
                moved = await self._move(failed) if len(failed) < MAX_BACKENDS else None
                if moved is None:
                    self.finish(reason_of(error, otherwise=Reason.CONNECTION_FAILED), str(error))
                    return False
                admitted = self._admitted = moved
            else:
                return True

    async def _move(self, failed: frozenset[int]) -> Admitted | None:
        try:
            answer = await self._ledger.submit(Move(replace(self.attempt, exclude=failed), self._presence.node_id))
        except VoiceError:
            return None  # the failure that made it move is what it ends with
        return answer if answer.verdict.admitted and not answer.spent else None

    def _go_live(self) -> None:
        admitted, provider, session = self._admitted, self._side.provider, self._side.session
        if admitted is None or provider is None or session is None:
            raise RuntimeError("a session goes live when it is open")
        policy = admitted.policy
        active_s = self._resumed.active_s if self._resumed is not None else 0.0
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
        logger.info("session active", extra=self._fields(admitted))
        self._presence.begin()
        self._trace.close()
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

    def _begin_grace(self) -> None:
        """Count the grace from the drop, once the session is one that can be suspended."""
        if self._dropped_at is None or (self._started is None and not self.waits):
            return
        ends_at = self._dropped_at + self._policy.grace_s
        self._timers["grace"] = self._loop.call_at(ends_at, self.finish, Reason.CLIENT_LOST)

    @property
    def _policy(self) -> Policy:
        return self._admitted.policy if self._admitted is not None else Policy(None, None, 0)

    def _tell_started(self, attachment: Attachment) -> None:
        if self._started is None:
            return
        attachment.listen(self._relay.downlink if self._relay is not None else None)
        gap_ms = None
        if self._back_at is not None:
            gap_ms = self._gap_ms + round((self._loop.time() - self._back_at) * 1000)
        attachment.tell(replace(self._started, connection=self.connection, gap_ms=gap_ms))

    # --- the end ---------------------------------------------------------------------------------------------------------------
    def _finish(self, ending: Ending) -> None:
        if not self._over.done():
            self._over.set_result(ending)

    async def _unless_over(self, opening: Coroutine[Any, Any, bool]) -> bool:
        """Return what ``opening`` does, or False once the session is over, with the opening cancelled."""
        task = self._loop.create_task(opening)
        try:
            either: set[asyncio.Future[Any]] = {task, self._over}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            return task.done() and task.result() and not self.over
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def _wind_up(self, ending: Ending) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._presence.stop()
        if self._relay is not None:
            await self._relay.stop()
        if ending.way is not Way.END:
            await self._let_go(ending)
            return
        with self._trace.step("voice.provider.close"):
            await self._side.close()
        told = self._loop.create_task(self._tell_ledger(ending))
        if self._admitted is not None:
            await asyncio.wait({told}, timeout=TOLD_AFTER_S)
        self._tell_client(ending)
        # The store may be away: the session stays known here, so that its token starts no second one meanwhile.
        await told

    async def _let_go(self, ending: Ending) -> None:
        """Leave the session to another process: tell the ledger first, so that its client finds it waiting, then the client."""
        attachment = self._attachment
        if ending.way is Way.HAND_OVER:
            logger.info("session handed over", extra=self._fields())
            told = self._loop.create_task(self._suspend_for_others())
            await asyncio.wait({told}, timeout=TOLD_AFTER_S)
            if attachment is not None:
                attachment.tell(Leaving())
            await self._close_own_side()
            await told
            return
        logger.info("session goes on elsewhere", extra=self._fields())
        if attachment is not None:
            attachment.tell(Replaced())
        await self._close_own_side()

    async def _suspend_for_others(self) -> None:
        try:
            await self._ledger.submit(Suspend(self.attempt.session_id, self._presence.node_id, Reason.DRAINED))
        except VoiceError as error:
            logger.warning("session could not be handed over", extra={**self._fields(), "error": str(error)})

    async def _close_own_side(self) -> None:
        """Close the stream through this process; what a backend holds by itself, without the platform's relay, goes on."""
        provider = self._side.provider
        if provider is None or provider.capabilities.relayed:
            await self._side.close()

    async def _tell_ledger(self, ending: Ending) -> None:
        if not self._holds_slot and self._waiting is None:
            return
        reason, detail = ending.reason, ending.detail
        if reason in _NOT_AN_END:
            reason, detail = _NOT_AN_END[reason], detail or f"{ending.reason.value} while it was being started"
        try:
            active_s = self._loop.time() - self._active_at if self._started is not None else 0.0
            with self._trace.end(reason, active_s=active_s):
                await self._ledger.submit(
                    End(self.attempt.session_id, reason, detail=detail, actor=ending.actor, node_id=self._presence.node_id)
                )
        except VoiceError as error:
            logger.error("session's end could not be recorded", extra={**self._fields(), "error": str(error)})  # noqa: TRY400
            return
        logger.info("session over", extra={**self._fields(), "reason": reason.value, "dropped": self._dropped_frames()})

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

    def _fields(self, admitted: Admitted | None = None) -> dict[str, Any]:
        admitted = admitted or self._admitted
        backend = admitted.backend.name if admitted is not None and admitted.backend else ""
        return {"session": str(self.attempt.session_id), "backend": backend}


# Reasons that refuse an attempt, and what a session that has its slot already ends for instead.
_NOT_AN_END: Final = {
    Reason.UNAVAILABLE: Reason.CONNECTION_FAILED,
    Reason.OVERLOADED: Reason.CONNECTION_FAILED,
    Reason.NODE_DRAINING: Reason.DRAINED,
}
