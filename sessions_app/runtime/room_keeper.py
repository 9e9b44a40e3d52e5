"""Looks after the rooms of sessions: takes in what their providers say, and does what follows from it.

Owns: ``tend``, one look after one room, from any process: claim it, fold the inbox, decide (``domain.rooms.next_step``), act, give it back
with the time of the next look. The end of a session is decided in the database first, so that the first reason counts and whoever comes
next carries it through; then the room is removed, within ``VOICE_CLOSE_TIMEOUT_S``; then the slot is free. A room that could not be
removed stays due until it is gone.
Refuses: the client's connection; deciding anything itself.
Limits: ``MAX_STEPS`` steps a look. A process that dies in one is followed by another when the claim is over.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, Protocol, overload
from uuid import UUID

from django.conf import settings

from sessions_app.domain.operations import Admitted, End, Joined, Left, Move
from sessions_app.domain.rooms import Asked, Do, Happening, Listed, Listing, Step, next_step
from sessions_app.domain.states import Reason
from sessions_app.domain.world import Attempt
from sessions_app.models import Drift
from sessions_app.providers.base import OpenRequest, ProviderSession, Room, RoomEvent, RoomProvider
from sessions_app.providers.exceptions import ProviderError, ProviderFailed
from sessions_app.runtime import telemetry
from sessions_app.runtime.database import in_room_thread as in_thread
from sessions_app.runtime.together import Together
from sessions_app.services import ending, inbox, rooms
from sessions_app.services.exceptions import VoiceError
from sessions_app.services.rooms import Look, LostClaim, Wanted

logger = logging.getLogger(__name__)

MAX_STEPS: Final = 12
MAX_LOOKS: Final = 5  # in a row, where something came in meanwhile; the next round goes on
AGENT_GONE_S: Final = 3.0  # an agent that left may be followed by another one
SOON_S: Final = 1.0  # until the next try where a store or a provider is away
CLOSE_AGAIN_S: Final = 60.0  # between two tries to remove a room at most
ASK_S: Final = 4.0


class Tells(Protocol):
    """What hands operations to the ledger; raises ``VoiceError`` where it cannot be asked."""

    @overload
    async def __call__(self, operation: Move) -> Admitted: ...
    @overload
    async def __call__(self, operation: Joined | Left | End) -> bool: ...


class Finds(Protocol):
    """Finds a backend's provider."""

    async def __call__(self, backend_id: int) -> RoomProvider:
        """Return it as it is configured now.

        Raises:
            ProviderError: There is none, it has no rooms, or its configuration is wrong.
        """


async def _list_rooms(provider: RoomProvider) -> Sequence[Room]:
    try:
        async with asyncio.timeout(ASK_S):
            return await provider.list_rooms()
    except TimeoutError:
        raise ProviderFailed("it did not list its rooms in time.") from None


class Keeper:
    """One process's; to be used from one event loop.

    Args:
        holder: Who it claims rooms as.
        submit: The way to the ledger.
        find: Finds a backend's provider.
        on_change: Called when a session in a room has changed, with its id.

    Attributes:
        unreachable: Backends that could not be asked when they were last looked at; told once each time.
    """

    def __init__(self, *, holder: str, submit: Tells, find: Finds, on_change: Callable[[UUID], None] = lambda _: None) -> None:
        self.holder = holder
        self.submit = submit
        self.find = find
        self.on_change = on_change
        self.unreachable: set[int] = set()
        self._lists: Together[RoomProvider, Sequence[Room]] = Together(_list_rooms)
        self._tending: set[UUID] = set()
        self._again: dict[UUID, bool] = {}  # stirred while it was looked after; whether the provider is to be asked

    async def list_rooms(self, provider: RoomProvider) -> Sequence[Room]:
        """List a provider's rooms; those who ask at once share a list, which is not older than the question.

        Raises:
            ProviderError: The backend could not be asked.
        """
        return await self._lists.ask(provider)

    async def end(self, session_id: UUID, reason: Reason, detail: str = "", *, actor: str = "") -> None:
        """End a session in a room; the first reason that anybody gave counts.

        Raises:
            django.db.Error: the database is away.
        """
        await in_thread(ending.decide, session_id=session_id, reason=reason, detail=detail, actor=actor)
        await in_thread(rooms.stir, session_ids=[session_id])
        await self.tend(session_id)

    async def tend(self, session_id: UUID, *, ask: bool = False) -> None:
        """Look after one room until nothing is to be done now; nothing where another process does.

        Args:
            session_id: Whose room.
            ask: Whether the provider is asked who is there, whatever is known.

        Raises:
            django.db.Error: the database is away; the room stays due.
        """
        if session_id in self._tending:
            self._again[session_id] = self._again.get(session_id, False) or ask
            return
        self._tending.add(session_id)
        try:
            for _ in range(MAX_LOOKS):
                is_due = await self._look_after(session_id, ask=ask)
                again = self._again.pop(session_id, None)
                if not is_due and again is None:
                    return
                ask = bool(again)
        finally:
            self._tending.discard(session_id)
            self._again.pop(session_id, None)

    async def _look_after(self, session_id: UUID, *, ask: bool) -> bool:
        """Return whether the room is due again already."""
        found = await in_thread(rooms.claim, session_id=session_id, holder=self.holder)
        if found is None:
            return False
        due: float | None = found.now + SOON_S
        try:
            due = None if found.closed else await _Visit(self, found).run(ask=ask)
        except LostClaim:
            return False
        except (ProviderError, VoiceError) as error:
            logger.warning("room could not be looked after", extra={"session": str(session_id), "error": str(error)})
        except TimeoutError:
            logger.warning("backend did not answer in time", extra={"session": str(session_id), "backend": found.backend})
        except asyncio.CancelledError:
            # This process goes down: the next one need not wait for the claim to be over.
            await asyncio.shield(in_thread(rooms.release, found=found, holder=self.holder, due=found.now))
            raise
        return await in_thread(rooms.release, found=found, holder=self.holder, due=due)


class _Visit:
    """One look after one room, under its claim."""

    def __init__(self, keeper: Keeper, found: Look) -> None:
        self._keeper = keeper
        self._found = found
        self._facts = found.facts
        self._generation = found.generation
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._clock = found.now
        self._provider: RoomProvider | None = None
        self._why = ""  # there is no provider

    @property
    def _now(self) -> float:
        return self._clock + self._loop.time() - self._began

    async def run(self, *, ask: bool) -> float | None:
        """Do what is to be done and return when to look again."""
        await self._use_provider()
        asked = Asked.NO
        if self._provider is not None:
            await self._fold()
        else:
            asked = Asked.IN_VAIN
        if ask and self._provider is not None and self._found.life.state is not None:
            asked = await self._ask()
        for _ in range(MAX_STEPS):
            step = next_step(self._found.life, self._facts, now=self._now, asked=asked)
            if step.do is Do.NOTHING:
                return step.due if self._provider is not None else self._now + SOON_S
            if step.do is Do.CLOSE:
                return await self._close()
            if step.do is Do.ASK:
                asked = await self._ask()
                continue
            if step.do is not Do.END and self._provider is None:
                return self._now + SOON_S
            await self._act(step)
            await self._reload()
        logger.error("a room keeps asking for more", extra=self._fields())
        return self._now + SOON_S

    async def _use_provider(self) -> None:
        """Without its provider (a wrong setting, say) a session can only end."""
        self._provider = None
        try:
            self._provider = await self._keeper.find(self._found.backend_id)
        except ProviderError as error:
            self._why = str(error)
            logger.warning("a room's backend cannot be used", extra={**self._fields(), "error": self._why})
        self._with_policy()

    def _with_policy(self) -> None:
        if self._provider is not None:
            policy = self._provider.policy
            self._found.life = replace(self._found.life, agent_timeout_s=policy.agent_timeout_s, on_agent_absent=policy.on_agent_absent)

    async def _reload(self) -> None:
        found = await in_thread(rooms.look, session_id=self._found.session_id)
        if found is None:
            raise LostClaim
        found.due_mark = self._found.due_mark
        moved = found.backend_id != self._found.backend_id
        self._found, self._facts, self._generation = found, found.facts, found.generation
        self._clock, self._began = found.now, self._loop.time()
        if moved:
            await self._use_provider()
        self._with_policy()

    # --- what is known -----------------------------------------------------------------------------------------------------
    async def _fold(self) -> None:
        """Take in what the inbox has; nothing is written where it has nothing."""
        stored = await in_thread(rooms.unprocessed, session_id=self._found.session_id, backend_id=self._found.backend_id)
        if not stored or self._provider is None:
            return
        verdicts: list[tuple[int, str]] = []
        for each in stored:
            event = self._provider.read_event(each.body)
            before = (self._facts.user_is_here, self._facts.agent_is_here, self._facts.is_open)
            self._facts.happened(_happening(event, each.at))
            after = (self._facts.user_is_here, self._facts.agent_is_here, self._facts.is_open)
            verdicts.append((each.id, _verdict(before, after)))
        await self._save(verdicts=verdicts)

    async def _ask(self) -> Asked:
        """Ask the provider for the room and who is in it; put out whom no session admitted."""
        try:
            listing = await self._listing()
        except (ProviderError, TimeoutError) as error:
            logger.warning("a room's backend could not be asked", extra={**self._fields(), "error": str(error) or "no answer in time"})
            return Asked.IN_VAIN
        was_here = self._facts.user_is_here
        self._facts.were_listed(listing)
        await self._save(asked=True)
        if was_here and not self._facts.user_is_here and listing.room is not None:
            await self._drift(Drift.Kind.GHOST_SESSION, sid=listing.room, detail="its user had left, and no webhook told of it")
        return Asked.YES

    async def _listing(self) -> Listing:
        if self._provider is None:
            raise ProviderFailed(self._why)
        at = self._now
        listed = await self._keeper.list_rooms(self._provider)
        room = next((each for each in listed if each.name == self._found.name), None)
        if room is None:
            return Listing(None, (), at)
        async with asyncio.timeout(ASK_S):
            people = await self._provider.list_participants(room.name)
        for each in people:
            if each.role == "other":
                async with asyncio.timeout(ASK_S):
                    await self._provider.remove_participant(room.name, each.identity)
                await self._drift(Drift.Kind.FOREIGN_PARTICIPANT, sid=each.sid, participant=each.identity, detail="put out")
        # One that is still connecting has not joined yet.
        there = tuple(Listed(each.sid, each.role, each.has_audio) for each in people if each.active and each.role != "other")
        return Listing(room.sid, there, at)

    async def _save(
        self, *, verdicts: Sequence[tuple[int, str]] = (), asked: bool = False, agent_in_s: float | None = -1.0, tries: int | None = None
    ) -> None:
        life = self._found.life
        tries = life.agent_tries if tries is None else tries
        agent_by = await in_thread(
            rooms.save,
            found=self._found,
            holder=self._keeper.holder,
            facts=self._facts,
            generation=self._generation,
            agent_in_s=self._agent_in(agent_in_s),
            agent_tries=tries,
            asked=asked,
            verdicts=verdicts,
        )
        join_by = None if self._facts.user_is_here else life.join_by
        self._found.life = replace(life, agent_by=agent_by, agent_tries=tries, join_by=join_by)

    def _agent_in(self, wanted: float | None) -> float | None:
        """When an agent must be there, in seconds from now; negative: as it was."""
        life = self._found.life
        if life.agent_timeout_s is None or self._facts.agent_is_here:
            return None
        was_here = self._facts.agent_was_lost or self._facts.agent_hung_up
        return AGENT_GONE_S if wanted == -1.0 and life.agent_by is None and was_here else wanted

    # --- what is done --------------------------------------------------------------------------------------------------------
    async def _act(self, step: Step) -> None:
        session_id = self._found.session_id
        match step.do:
            case Do.JOIN:
                await self._keeper.submit(Joined(session_id))
                logger.info("session active", extra=self._fields())
            case Do.LEAVE:
                await self._keeper.submit(Left(session_id))
            case Do.REMAKE:
                await self._remake()
            case Do.DISPATCH:
                await self._dispatch()
            case Do.OTHER:
                await self._go_elsewhere()
            case _:
                await self._end(step)
        self._keeper.on_change(session_id)

    async def _remake(self) -> None:
        """Make the room again under its name, so that its client, still trying, finds it. Then look whether it should be there."""
        provider = self._of_provider()
        known = dict(self._facts.rooms)
        async with asyncio.timeout(settings.VOICE_OPEN_TIMEOUT_S):
            await provider.open(self._request())
        now = await in_thread(rooms.look, session_id=self._found.session_id)
        if now is None or now.life.state is None or now.life.asked_to_end is not None:
            await self._remove()
            return  # the next step sees that it is over
        listing = await self._listing()
        self._facts.were_listed(listing)
        if listing.room is None:
            self._facts.was_made()
        agent_in_s: float | None = -1.0
        if listing.room is None or listing.room not in known:
            self._generation += 1
            agent_in_s = self._found.life.agent_timeout_s
            await self._drift(Drift.Kind.LOST_ROOM, sid=next(reversed(known), ""), detail="made again")
            logger.warning("room made again", extra=self._fields())
        await self._save(asked=True, agent_in_s=agent_in_s, tries=0)

    async def _dispatch(self) -> None:
        """Ask for an agent once more; where that fails it counts, and the deadline runs all the same."""
        provider = self._of_provider()
        try:
            async with asyncio.timeout(settings.VOICE_OPEN_TIMEOUT_S):
                await provider.dispatch_agent(self._found.name, self._request())
        except (ProviderError, TimeoutError) as error:
            logger.warning("an agent could not be asked for", extra={**self._fields(), "error": str(error)})
        await self._save(agent_in_s=self._found.life.agent_timeout_s, tries=self._found.life.agent_tries + 1)

    async def _go_elsewhere(self) -> None:
        """Give the session a room on another backend; its client hears of it by its control socket."""
        found = self._found
        # What waits in the inbox concerns the room that is left.
        await self._save(tries=found.life.agent_tries + 1)
        attempt = Attempt(
            found.session_id, found.tenant_id, found.user, found.pipeline, found.transport, exclude=frozenset({found.backend_id})
        )
        answer = await self._keeper.submit(Move(attempt, None))
        if not answer.verdict.admitted or answer.spent or answer.backend is None:
            await self._end(Step(Do.END, Reason.AGENT_ABSENT, "no agent joined the room, and there is no other backend"))
            return
        await self._remove()
        try:
            provider = await self._keeper.find(answer.backend.id)
            policy = provider.policy
            name = provider.room_name(found.session_id)
            wanted = Wanted(found.session_id, answer.backend.id, name, policy.join_timeout_s, policy.agent_timeout_s, first_s=rooms.CLAIM_S)
            await in_thread(rooms.prepare, [wanted])
            await self._reload()
            async with asyncio.timeout(settings.VOICE_OPEN_TIMEOUT_S):
                await provider.open(self._request())
        except (ProviderError, TimeoutError) as error:
            reason = Reason.CONNECTION_FAILED if isinstance(error, ProviderError) else Reason.TIMEOUT
            await self._end(Step(Do.END, reason, str(error)))

    async def _end(self, step: Step) -> None:
        """Decide it, remove the room, give the slot back."""
        if step.reason is None:
            raise RuntimeError("an end has a reason")
        found = self._found
        decided = await in_thread(ending.decide, session_id=found.session_id, reason=step.reason, detail=step.detail)
        removed = await self._remove()
        if decided is not None:
            end = End(found.session_id, decided.reason, detail=decided.detail, actor=decided.actor)
            if await self._keeper.submit(end):
                active_at = found.life.active_at
                telemetry.ended(decided.reason, self._now - active_at if active_at is not None else 0.0)
                if step.since is not None:
                    telemetry.leaked(self._now - step.since)
                logger.info("session over", extra={**self._fields(), "reason": decided.reason.value})
        if removed:
            await in_thread(rooms.closed, session_id=found.session_id)

    async def _close(self) -> float | None:
        """Remove the room of a session that is over; return when to try again."""
        if self._found.closed or await self._remove():
            await in_thread(rooms.closed, session_id=self._found.session_id)
            return None
        tries = await in_thread(rooms.not_closed, session_id=self._found.session_id)
        return self._now + min(CLOSE_AGAIN_S, 2.0 ** min(tries, 10))

    async def _remove(self) -> bool:
        """Return whether the room is gone."""
        if self._provider is None:
            return False
        try:
            async with asyncio.timeout(settings.VOICE_CLOSE_TIMEOUT_S):
                await self._provider.close(ProviderSession.known(self._found.session_id, self._found.name))
        except (ProviderError, TimeoutError) as error:
            logger.warning("room could not be removed", extra={**self._fields(), "error": str(error) or "no answer in time"})
            return False
        return True

    # --- words -----------------------------------------------------------------------------------------------------------------
    def _of_provider(self) -> RoomProvider:
        if self._provider is None:
            raise ProviderFailed(self._why)
        return self._provider

    def _request(self) -> OpenRequest:
        found = self._found
        return OpenRequest(
            session_id=found.session_id,
            tenant=found.tenant,
            user=found.user,
            pipeline=found.pipeline,
            transport=found.transport,
            model=found.model,
            metadata=found.metadata,
            max_duration_s=None if found.life.max_duration_s is None else int(found.life.max_duration_s),
        )

    async def _drift(self, kind: Drift.Kind, *, sid: str, detail: str, participant: str = "") -> None:
        found = self._found
        recorded = await in_thread(
            inbox.drifted,
            kind=kind,
            backend_id=found.backend_id,
            room=found.name,
            sid=sid,
            participant=participant,
            session_id=found.session_id,
            detail=detail,
        )
        if recorded:
            telemetry.drifted(kind.value, found.backend)

    def _fields(self) -> dict[str, str]:
        return {"session": str(self._found.session_id), "backend": self._found.backend}


def _happening(event: RoomEvent, at: float) -> Happening:
    who = event.participant
    return Happening(
        kind=event.kind,
        room=event.room_sid,
        at=at,
        person=who.sid if who is not None else "",
        role=who.role if who is not None else "other",
        audio=who.has_audio if who is not None else False,
        why=event.reason,
    )


def _verdict(before: tuple[bool, bool, bool], after: tuple[bool, bool, bool]) -> str:
    """Say in words what an event changed."""
    said = [
        words[now]
        for words, was, now in zip(
            (("the user left", "the user is there"), ("the agent left", "the agent is there"), ("the room is gone", "the room is there")),
            before,
            after,
            strict=True,
        )
        if was is not now
    ]
    return f"{'; '.join(said)}." if said else "Nothing new."
