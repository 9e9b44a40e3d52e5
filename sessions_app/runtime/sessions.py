"""The sessions that this process runs: from a session's id to its runner, for as long as it runs.

Owns: that one session has one runner here, the bound on how many there are, and ending them all when the process goes down.
Refuses: knowing what other processes run.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final
from uuid import UUID

from sessions_app.domain.operations import Promoted, Resume, Resumed
from sessions_app.domain.states import Reason
from sessions_app.domain.world import Attempt
from sessions_app.runtime.attachment import Attachment, Rejected
from sessions_app.runtime.presence import Back, Home
from sessions_app.runtime.provider_side import Opens
from sessions_app.runtime.room_runner import RoomRunner
from sessions_app.runtime.session_runner import SessionRunner
from sessions_app.selectors.carried import Fate
from sessions_app.selectors.places import Standing
from sessions_app.selectors.rooms import RoomNow
from sessions_app.services.exceptions import VoiceError
from sessions_app.services.tokens import Claims

PLACES_SHARE: Final = 10  # a look at the queue is followed by this many times as long without one
PLACES_PAUSE_S: Final = 2.0  # but by no more than this: a look is slow on a busy machine, too, where people wait to hear their place
MAX_SESSIONS: Final = 10_000  # many times what one process can carry; a bound on memory, not on capacity


class Sessions:
    """One process's runners; to be used from its event loop."""

    def __init__(self, *, home: Home, find: Opens) -> None:
        self.home = home
        self._find = find
        self._runners: dict[UUID, SessionRunner] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._places_at = 0.0

    def __len__(self) -> int:
        return len(self._runners)

    def get(self, session_id: UUID) -> SessionRunner | None:
        """Return the runner of a session that this process runs."""
        return self._runners.get(session_id)

    def connect(self, attempt: Attempt, metadata: Mapping[str, object], attachment: Attachment) -> SessionRunner | None:
        """Attach a client to its session, which is started where this process does not run it yet.

        Returns:
            The runner; None where the client was refused, which it is told by ``attachment``.
        """
        runner = self._runners.get(attempt.session_id)
        if runner is not None and not runner.over:
            runner.attach(attachment)
            return runner
        refused = self._refusal(None if runner is not None and runner.gave_way else runner)
        if refused is not None:
            attachment.trace.refused(refused)
            attachment.tell(Rejected(refused))
            return None
        runner = self._start(attempt, metadata)
        runner.attach(attachment)
        return runner

    def _start(self, attempt: Attempt, metadata: Mapping[str, object], *, resumed: Resumed | None = None) -> SessionRunner:
        kind = RoomRunner if attempt.transport == "webrtc" else SessionRunner
        runner = kind(home=self.home, find=self._find, attempt=attempt, metadata=metadata, resumed=resumed)
        self._runners[attempt.session_id] = runner
        task = asyncio.get_running_loop().create_task(runner.run(), name=f"session {attempt.session_id}")
        self._tasks.add(task)
        task.add_done_callback(functools.partial(self._forget, attempt.session_id, runner))
        return runner

    async def resume(self, claims: Claims, attachment: Attachment) -> SessionRunner | None:
        """Attach a client that comes back with its resume token; its session is taken over where another process had it.

        Returns:
            The runner; None where the client was refused, which it is told by ``attachment``, or has gone meanwhile.
        """
        if self.home.draining:
            attachment.tell(Rejected(Reason.NODE_DRAINING))
            return None
        had = self._runners.get(claims.session_id)
        if had is not None:
            had.expect(1)
        try:
            return await self._resume(claims, attachment)
        finally:
            if had is not None:
                had.expect(-1)

    async def _resume(self, claims: Claims, attachment: Attachment) -> SessionRunner | None:
        asked = Resume(claims.session_id, self.home.id, claims.tenant_id, claims.user, claims.connection)
        try:
            with attachment.trace.step("voice.session.resume"):
                answer = await self.home.batcher.submit(asked)
        except VoiceError as error:
            return self._resume_here(claims, attachment, error.reason)
        if answer.refused is not None:
            attachment.trace.refused(answer.refused, attempt=False)
            attachment.tell(Rejected(answer.refused))
            return None
        runner = self._runners.get(claims.session_id)
        if runner is None or runner.over:
            attempt = Attempt(claims.session_id, claims.tenant_id, claims.user, answer.pipeline, answer.transport, answer.wanted_backend)
            runner = self._start(attempt, answer.metadata, resumed=answer)
        runner.attach(attachment, back=Back(answer.generation, answer.floor, answer.gap_ms))
        if attachment.gone:
            runner.detach(attachment, stopped=False)
        return runner

    def _resume_here(self, claims: Claims, attachment: Attachment, otherwise: Reason) -> SessionRunner | None:
        """The ledger cannot be asked; where the session is this process's own, it knows by itself which token is good."""
        runner = self._runners.get(claims.session_id)
        known = runner is not None and not runner.over and runner.would_take(claims.tenant_id, claims.user, claims.connection)
        if runner is None or not known or attachment.gone:
            attachment.tell(Rejected(otherwise))
            return None
        runner.attach(attachment, back=Back.unknown())
        return runner

    async def look(
        self,
        ask: Callable[[dict[UUID, bool]], Awaitable[Sequence[Fate]]],
        places: Callable[[list[UUID]], Awaitable[Mapping[UUID, Standing]]],
        rooms: Callable[[list[UUID]], Awaitable[Sequence[RoomNow]]],
    ) -> None:
        """Ask what became of the sessions that this process carries, and where those stand that wait, and act on it."""
        asked = {session_id: runner.connection for session_id, runner in self._runners.items() if runner.carried or runner.waits}
        if not asked:
            return
        for fate in await ask({session_id: self._runners[session_id].waits for session_id in asked}):
            runner = self._runners.get(fate.session_id)
            # A client that came back here while the question was on its way has changed the answer.
            if runner is not None and not runner.over and runner.connection == asked[fate.session_id]:
                await _act(runner, fate)
        await self._look_at_places(places)
        await self._look_at_rooms(rooms)

    async def _look_at_rooms(self, rooms: Callable[[list[UUID]], Awaitable[Sequence[RoomNow]]]) -> None:
        """Tell clients whose rooms were made again where they are."""
        in_rooms = [session_id for session_id, runner in self._runners.items() if isinstance(runner, RoomRunner) and runner.in_room]
        for each in await rooms(in_rooms) if in_rooms else ():
            runner = self._runners.get(each.session_id)
            if isinstance(runner, RoomRunner):
                await runner.room_is(each)

    async def _look_at_places(self, places: Callable[[list[UUID]], Awaitable[Mapping[UUID, Standing]]]) -> None:
        """Tell those who wait where they stand. A long queue is looked at less often, so that this takes a small share of the process."""
        waiting = [session_id for session_id, runner in self._runners.items() if runner.waits]
        began = asyncio.get_running_loop().time()
        if not waiting or began < self._places_at:
            return
        for session_id, standing in (await places(waiting)).items():
            if (placed := self._runners.get(session_id)) is not None:
                placed.placed(standing)
        now = asyncio.get_running_loop().time()
        self._places_at = now + min(PLACES_PAUSE_S, PLACES_SHARE * (now - began))

    def promoted(self, promoted: Sequence[Promoted]) -> None:
        """Tell those who waited here that they have a slot."""
        for each in promoted:
            runner = self._runners.get(each.session_id)
            if runner is not None and each.node_id == self.home.id:
                runner.promoted(each.admitted)

    def move_to(self, node_id: UUID, *, was: UUID) -> None:
        """Carry on under another id: the node was taken for lost, and is a new one."""
        for runner in list(self._runners.values()):
            runner.move_to(node_id, was=was)

    async def stop_all(self, *, hand_over: bool, timeout_s: float) -> int:
        """End every session, or leave it to another node, wait for that, and return how many were not done in that time."""
        for runner in list(self._runners.values()):
            runner.leave(hand_over=hand_over)
        tasks = set(self._tasks)
        if not tasks:
            return 0
        _, late = await asyncio.wait(tasks, timeout=timeout_s)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
        return len(late)

    def _refusal(self, runner: SessionRunner | None) -> Reason | None:
        if runner is not None:
            # It is over and only the store does not know yet. Was it never admitted for want of the store, its credential is still good.
            return Reason.UNAVAILABLE if runner.reason is Reason.UNAVAILABLE else Reason.AUTHENTICATION_FAILED
        if self.home.draining:
            return Reason.NODE_DRAINING
        return Reason.OVERLOADED if len(self._runners) >= MAX_SESSIONS else None

    def _forget(self, session_id: UUID, runner: SessionRunner, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        # One that gave way may still be winding up when its client is back with a new one.
        if self._runners.get(session_id) is runner:
            del self._runners[session_id]


async def _act(runner: SessionRunner, fate: Fate) -> None:
    if fate.reason is not None:
        runner.finish(fate.reason, fate.detail, actor=fate.actor)
    elif not fate.ours:
        runner.give_way()
    elif fate.promoted:
        await runner.ask_again()
