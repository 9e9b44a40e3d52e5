"""The way into a session: admission, the queue where there is no slot, the backend's opening, active. Or a take-over instead of all that.

Owns: what is asked of the ledger until the session lives, and that a slot that was given is known, so that its end gives it back.
Refuses: the client's connection and every timer, which are the runner's; whatever ends the session meanwhile ends the way in too.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final

from sessions_app.domain.admission import Limit, Verdict
from sessions_app.domain.operations import Activate, Admit, Admitted, Move, Resume, Resumed
from sessions_app.domain.states import Reason, State
from sessions_app.domain.world import Attempt
from sessions_app.providers.exceptions import ProviderError
from sessions_app.runtime.presence import Home, Presence
from sessions_app.runtime.provider_side import ProviderSide
from sessions_app.runtime.relay import reason_of
from sessions_app.runtime.telemetry import UNTRACED, SessionTrace
from sessions_app.runtime.waiting import Waiting
from sessions_app.services.exceptions import Unavailable, VoiceError

logger = logging.getLogger(__name__)

MAX_BACKENDS: Final = 3  # that are tried for one session before it fails
FATE_S: Final = 3.0  # how long to wait for the reason why the ledger has a session no more
# Reasons that refuse an attempt, and what a session that has its slot already ends for instead.
NOT_AN_END: Final = {
    Reason.UNAVAILABLE: Reason.CONNECTION_FAILED,
    Reason.OVERLOADED: Reason.CONNECTION_FAILED,
    Reason.NODE_DRAINING: Reason.DRAINED,
}


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


@dataclass(eq=False, slots=True)
class Course:
    """What the way in and the runner both know of a session.

    Attributes:
        over: Done with the first reason to end it.
        holds_slot: Whether the ledger has, or may have, a slot for it on this node.
        is_active: Whether the ledger has it as active here.
        admitted: The ledger's answer; None before it.
        resumed: The ledger's answer where the session was taken over from another process.
        waiting: Its time in the queue; None where it never waited.
    """

    attempt: Attempt
    metadata: Mapping[str, object]
    home: Home
    presence: Presence
    side: ProviderSide
    over: asyncio.Future[Ending]
    resumed: Resumed | None = None
    trace: SessionTrace = UNTRACED
    holds_slot: bool = False
    is_active: bool = False
    admitted: Admitted | None = None
    waiting: Waiting | None = None

    @property
    def is_over(self) -> bool:
        """Whether it has ended, or is about to."""
        return self.over.done()

    def end(self, ending: Ending) -> None:
        """End it; the first reason counts."""
        if not self.over.done():
            self.over.set_result(ending)

    def finish(self, reason: Reason, detail: str = "", *, actor: str = "") -> None:
        """End it for a reason."""
        self.end(Ending(reason, detail, actor))

    def fields(self, admitted: Admitted | None = None) -> dict[str, Any]:
        """Return what its log lines have in common."""
        admitted = admitted or self.admitted
        backend = admitted.backend.name if admitted is not None and admitted.backend else ""
        return {"session": str(self.attempt.session_id), "backend": backend}


class WayIn:
    """One session's.

    Args:
        course: The session.
        on_waiting: Called when it has begun to wait.
        on_promoted: Called when it has a slot; returns whether its client is here, or just coming back.
        activates: Whether it is active once its backend is open; else somebody else says so later.
    """

    def __init__(self, course: Course, *, on_waiting: Callable[[], None], on_promoted: Callable[[], bool], activates: bool = True) -> None:
        self._course = course
        self._on_waiting = on_waiting
        self._on_promoted = on_promoted
        self._activates = activates
        self._ledger = course.home.batcher
        self._loop = asyncio.get_running_loop()

    async def go(self) -> bool:
        """Return whether the session is open, and active where that is for us to say; False: it is over."""
        admitted = self._take_up(self._course.resumed) if self._course.resumed is not None else await self._admit()
        if admitted is not None and admitted.state is State.QUEUED:
            admitted = await self._wait(admitted)
        if admitted is None or self._course.is_over or not await self._unless_over(self._open_some(admitted)):
            return False
        return not self._activates or self._course.is_active or await self._activate()

    async def _wait(self, queued: Admitted) -> Admitted | None:
        """Wait for a slot; None: the session is over before there is one."""
        waited_s = self._course.resumed.waited_s if self._course.resumed is not None else 0.0
        self._course.waiting = waiting = Waiting(
            session_id=self._course.attempt.session_id,
            waited_s=waited_s,
            longest_s=queued.max_wait_s,
            on_timeout=lambda: self._course.finish(Reason.QUEUE_TIMEOUT),
        )
        logger.info("session waits", extra=self._course.fields())
        self._course.presence.begin()
        self._on_waiting()
        self._course.home.look_now()
        either: set[asyncio.Future[Any]] = {waiting.promoted, self._course.over}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        waiting.close()
        if waiting.promoted.done():
            # Also when it is over meanwhile: the slot must be given back.
            self._course.holds_slot, self._course.admitted = True, waiting.promoted.result()
            self._course.presence.pause()
            self._course.resumed = None
        if self._course.is_over or not waiting.promoted.done():
            return None
        if not self._on_promoted():
            self._course.finish(Reason.CLIENT_LOST)  # somebody else can use the slot at once
            return None
        return self._course.admitted

    async def _activate(self) -> bool:
        try:
            with self._course.trace.step("voice.session.active"):
                self._course.is_active = await self._ledger.submit(Activate(self._course.attempt.session_id, self._course.presence.node_id))
        except VoiceError as error:
            # The slot is ours until the ledger says otherwise: it ends as failed there, and the client may try again.
            self._course.end(Ending(error.reason, "the session could not be recorded as active"))
            return False
        if not self._course.is_active and not self._course.is_over:
            # Somebody ended it: what for is known within a second, where the database can be asked.
            self._course.home.look_now()
            await asyncio.wait({self._course.over}, timeout=FATE_S)
            self._course.finish(Reason.NODE_LOST, "the session was ended before it became active")
        return not self._course.is_over

    async def _admit(self) -> Admitted | None:
        try:
            with self._course.trace.admission() as asked:
                answer = await self._ledger.submit(
                    Admit(self._course.attempt, self._course.presence.node_id, self._course.metadata, self._course.trace.id)
                )
                asked.answered(answer)
        except VoiceError as error:
            # Where only the answer was lost there is a slot, and it must be given back.
            self._course.holds_slot = isinstance(error, Unavailable) and error.in_doubt
            self._course.finish(error.reason)
            return None
        verdict = answer.verdict
        if answer.spent:
            self._course.finish(Reason.AUTHENTICATION_FAILED)
        elif answer.attached and not self._is_own_answer(answer):
            return await self._take_over()
        elif answer.state is State.QUEUED:
            self._course.admitted = answer
            return answer
        elif verdict.reason is not None:
            logger.info("session refused", extra={**self._course.fields(), "reason": verdict.reason.value})
            self._course.end(Ending(verdict.reason, retry_after_s=verdict.retry_after_s, limits=verdict.limits))
        else:
            self._course.holds_slot = True
            self._course.admitted = answer
            return answer
        return None

    async def _take_over(self) -> Admitted | None:
        """The connect token's session lives on another node: its client is here now."""
        attempt = self._course.attempt
        try:
            answer = await self._ledger.submit(Resume(attempt.session_id, self._course.presence.node_id, attempt.tenant_id, attempt.user))
        except VoiceError as error:
            self._course.finish(error.reason)
            return None
        if answer.refused is not None:
            self._course.finish(answer.refused)
            return None
        return self._take_up(answer)

    def _take_up(self, resumed: Resumed) -> Admitted:
        """Go on with a session that another process had."""
        self._course.holds_slot = self._course.is_active = resumed.state is not State.QUEUED
        self._course.resumed = resumed
        self._course.presence.taken_over(resumed)
        self._course.admitted = Admitted(
            self._course.attempt.session_id,
            Verdict(None, ()),
            resumed.state,
            self._course.presence.node_id,
            resumed.backend,
            resumed.pipeline,
            resumed.policy,
            attached=True,
            max_wait_s=resumed.max_wait_s,
        )
        return self._course.admitted

    def _is_own_answer(self, answer: Admitted) -> bool:
        """Whether it was this attempt that got the slot, and its first answer was lost: there is no other runner of it in this process."""
        return answer.node_id == self._course.presence.node_id and answer.state in {State.STARTING, State.QUEUED}

    async def _open_some(self, admitted: Admitted) -> bool:
        """Open the backend that the slot is on, or else the next healthy one, within bounds. False: the session is over."""
        failed: frozenset[int] = frozenset()
        while True:
            try:
                with self._course.trace.step("voice.provider.open", backend=admitted.backend.name if admitted.backend else ""):
                    await self._course.side.open(admitted)
            except ProviderError as error:
                logger.warning("backend could not be opened", extra={**self._course.fields(admitted), "error": str(error)})
                await self._course.side.close()
                failed |= {admitted.backend.id} if admitted.backend else set()
                moved = await self._move(failed) if len(failed) < MAX_BACKENDS else None
                if moved is None:
                    self._course.finish(reason_of(error, otherwise=Reason.CONNECTION_FAILED), str(error))
                    return False
                admitted = self._course.admitted = moved
            else:
                return True

    async def _move(self, failed: frozenset[int]) -> Admitted | None:
        try:
            answer = await self._ledger.submit(Move(replace(self._course.attempt, exclude=failed), self._course.presence.node_id))
        except VoiceError:
            return None  # the failure that made it move is what it ends with
        return answer if answer.verdict.admitted and not answer.spent else None

    async def _unless_over(self, opening: Coroutine[Any, Any, bool]) -> bool:
        """Return what ``opening`` does, or False once the session is over, with the opening cancelled."""
        task = self._loop.create_task(opening)
        try:
            either: set[asyncio.Future[Any]] = {task, self._course.over}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            return task.done() and task.result() and not self._course.is_over
        finally:
            task.cancel()
            await asyncio.wait({task})
