"""One batch in the plain model: what each operation should answer, and what it should leave.

Owns: the order in a batch (what ends, then who waits, then who asks, then who was let go meanwhile) and what each step does to a session.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sessions_app.domain.operations import Activate, Admit, Adopt, Confirm, End, Joined, Left, Move, Operation, Promote, Resume, Suspend
from sessions_app.domain.states import Reason, State
from sessions_app.domain.world import Attempt
from tests.model.plain import HOLDING, Plain, Session

# What only tells of a connection lets nobody in.
LETS_NOBODY_IN = (Activate, Joined, Left, Confirm, Resume)
ENDED = {
    Reason.COMPLETED, Reason.PROVIDER_ENDED, Reason.CLIENT_LOST, Reason.NODE_LOST, Reason.IDLE_TIMEOUT, Reason.MAX_DURATION,
    Reason.TERMINATED, Reason.DRAINED,
}  # fmt: skip
REFUSED = {Reason.TENANT_SUSPENDED, Reason.RATE_LIMIT}
FAILED = {Reason.CONNECTION_FAILED, Reason.TIMEOUT, Reason.PROVIDER_FAILED, Reason.PIPELINE_ERROR, Reason.AGENT_ABSENT}

Answered = tuple[Any, ...] | bool


@dataclass
class Seen:
    """What a ledger did that looks at a part of the queue: it may leave some for the next time, and is held to being fair.

    Attributes:
        turns: Who was promoted, each time that it came to those who wait.
        rejected: Who waits no more because of a suspended tenant, or is said to by who ends it.
        reasons: Why a new attempt was not let in, by the operation's place in the batch.
    """

    turns: list[list[UUID]]
    rejected: set[UUID]
    reasons: dict[int, Reason | None]


class Batch:
    """Applies operations to the model.

    Args:
        chosen: The backends that the ledger chose: by the operation's place in the batch, or by the session that was promoted.
        seen: What the ledger did where it looks at a part of the queue; None: it looks at all of it, and there is one right thing to do.

    Attributes:
        promoted: Who should have got a slot from the queue, in order.
    """

    def __init__(self, plain: Plain, chosen: Mapping[int | UUID, int], seen: "Seen | None" = None) -> None:
        self.plain = plain
        self.chosen = chosen
        self.seen = seen
        self.promoted: list[UUID] = []

    def apply(self, operations: Sequence[Operation]) -> list[Answered]:
        answers: dict[int, Answered] = {}
        self._seen = {each.attempt.session_id for each in self.plain.waiting() if each.lease is None}
        self._seen |= {_session_id(each) for each in operations if not isinstance(each, Promote)}
        asking = {each.attempt.session_id for each in operations if isinstance(each, Admit | Move)}
        behind = [index for index, each in enumerate(operations) if isinstance(each, Admit | Move | Promote) or each.session_id in asking]
        for index, each in enumerate(operations):
            if index not in behind:
                answers[index] = self._step(index, each)
        lets_in = not all(isinstance(each, LETS_NOBODY_IN) for each in operations)
        if lets_in:
            self._promote()
        for index in behind:
            answers[index] = self._step(index, operations[index])
        if lets_in:
            self._promote()
        return [answers[index] for index in range(len(operations))]

    def _promote(self) -> None:
        if self.seen is not None:
            for key in self.seen.rejected:
                session = self.plain.sessions[key]
                if self.plain.tenants[session.tenant].suspended:
                    session.state, session.reason = State.REJECTED, Reason.TENANT_SUSPENDED
            turn = self.seen.turns.pop(0) if self.seen.turns else []
            self.plain.follow(turn, self.chosen.get)
            self.promoted += turn
            return
        for each in self.plain.waiting():
            # Whoever is away and is not told of is looked at when its client is back.
            if self.plain.tenants[each.tenant].suspended and each.attempt.session_id in self._seen:
                each.state, each.reason = State.REJECTED, Reason.TENANT_SUSPENDED
        self.promoted += self.plain.promote(self.chosen.get)

    def _step(self, index: int, operation: Operation) -> Answered:  # noqa: PLR0911, PLR0912
        if isinstance(operation, Promote):
            return bool(self.promoted)
        if isinstance(operation, Admit):
            return self._admit(index, operation)
        session = self.plain.sessions.get(_session_id(operation))
        if isinstance(operation, Resume):
            return self._resume(session, operation)
        if isinstance(operation, Move):
            return self._move(index, session, operation)
        if session is None or session.state not in HOLDING | {State.QUEUED}:
            return False
        match operation:
            case Activate():
                if session.state is not State.STARTING or session.node != operation.node_id:
                    return False
                session.state = State.ACTIVE
                return True
            case Joined():
                return self._joined(session)
            case Left():
                return session.state is State.ACTIVE and self._lose(session, self.plain.now, None, Reason.CLIENT_LOST)
            case Confirm():
                if session.node != operation.node_id or session.generation != operation.generation:
                    return False
                session.floor = session.generation
                return True
            case Adopt():
                return self._adopt(session, operation)
            case Suspend():
                return self._suspend(session, operation)
            case End():
                return self._end(session, operation)

    def _admit(self, index: int, operation: Admit) -> Answered:
        plain, attempt = self.plain, operation.attempt
        known = plain.sessions.get(attempt.session_id)
        if known is not None:
            live = known.state in HOLDING | {State.QUEUED} and (known.tenant, known.user) == (attempt.tenant_id, attempt.user)
            return ("attached", known.state, known.node, known.backend) if live else ("spent",)
        answer = plain.judge(attempt, gone=self._gone(index, attempt) if self.seen is not None else None)
        state = State.QUEUED if answer.queued else State.STARTING if answer.reason is None else State.REJECTED
        session = Session(attempt, state, operation.node_id, arrival=len(plain.sessions), since=plain.now)
        if state is State.STARTING:
            plain.give(session, self.chosen.get(index), answer.may)
        elif state is State.REJECTED:
            session.reason = answer.reason or ""
        plain.sessions[attempt.session_id] = session
        return state, answer.reason, session.backend, session.burst

    def _gone(self, index: int, attempt: Attempt) -> Reason | None:
        """Return the limit that a new attempt met that found room, but for those who wait; it may overtake none of them."""
        assert self.seen is not None
        reason = self.seen.reasons[index]
        if reason is None:
            overtaken = self.plain.overtaken(attempt, self.chosen.get(index))
            assert not overtaken, f"{attempt} overtakes {overtaken}"
        if reason in {None, Reason.RATE_LIMIT} or self.plain.fits(attempt).reason is not None:
            return None
        assert self.plain.may_be_overtaken(), f"{attempt} is kept waiting for nobody"
        return Reason.BACKEND_LIMIT if reason is Reason.QUEUE_FULL else reason

    def _move(self, index: int, session: Session | None, operation: Move) -> Answered:
        in_room = operation.node_id is None and operation.attempt.transport == "webrtc"
        if session is None or session.state not in HOLDING:
            return ("spent",)
        if not in_room and (session.state is not State.STARTING or session.node != operation.node_id):
            return ("spent",)
        answer = self.plain.other_backend(session, operation.attempt)
        if answer.reason is not None:
            return "moved", answer.reason, None
        session.backend = self.chosen.get(index)
        assert session.backend in answer.may
        return "moved", None, session.backend

    def _resume(self, session: Session | None, operation: Resume) -> Answered:
        if session is None or (session.tenant, session.user) != (operation.tenant_id, operation.user):
            return (Reason.AUTHENTICATION_FAILED,)
        shown = session.generation if operation.shown is None else operation.shown
        if session.state not in HOLDING | {State.QUEUED} or not session.floor <= shown <= session.generation:
            return (Reason.AUTHENTICATION_FAILED,)
        in_room = session.attempt.transport == "webrtc" and session.state is not State.QUEUED
        if session.state is State.STARTING and session.node != operation.node_id and not in_room:
            return (Reason.UNAVAILABLE,)
        session.floor, session.generation = shown, session.generation + 1
        if in_room:
            session.node = operation.node_id
            return None, session.state, session.generation, session.floor, session.backend
        if session.state is not State.STARTING:
            session.node, session.lease = operation.node_id, None
        if session.state is State.RECONNECTING:
            session.state = State.ACTIVE
        session.reason = ""
        return None, session.state, session.generation, session.floor, session.backend

    def _adopt(self, session: Session, operation: Adopt) -> bool:
        if session.state is State.STARTING or session.node not in {operation.was, operation.node_id}:
            return False
        session.generation = max(session.generation, operation.generation)
        session.floor = max(session.floor, operation.generation - 1)
        session.node, session.lease, session.reason = operation.node_id, None, ""
        if session.state is State.RECONNECTING:
            session.state = State.ACTIVE
        return True

    def _suspend(self, session: Session, operation: Suspend) -> bool:
        if session.node != operation.node_id or session.lease is not None or session.state is State.STARTING:
            return False
        return self._lose(session, operation.since or self.plain.now, operation.longest_s, operation.reason)

    def _joined(self, session: Session) -> bool:
        if session.state not in {State.STARTING, State.RECONNECTING}:
            return False
        session.state, session.lease, session.reason = State.ACTIVE, None, ""
        return True

    def _lose(self, session: Session, since: datetime, longest_s: float | None, reason: Reason) -> bool:
        grace = self.plain.tenants[session.tenant].quota["grace_s"]
        session.lease = since + timedelta(seconds=grace if longest_s is None else min(grace, longest_s))
        if session.state is State.ACTIVE:
            session.state, session.reason = State.RECONNECTING, reason
        return True

    def _end(self, session: Session, operation: End) -> bool:
        if operation.expired_only and (session.lease is None or session.lease >= self.plain.now):
            return False
        if operation.node_id is not None and session.node != operation.node_id:
            return False
        over = _over(session.state, operation.reason)
        if over is None:
            return False
        session.state, session.reason = over, operation.reason
        return True


def _session_id(operation: Operation) -> UUID:
    assert not isinstance(operation, Promote)
    return operation.attempt.session_id if isinstance(operation, Admit | Move) else operation.session_id


def _over(state: State, reason: Reason) -> State | None:
    """Return what a session becomes that ends for this reason; None: it cannot."""
    if state is State.QUEUED:
        if reason is Reason.QUEUE_TIMEOUT:
            return State.EXPIRED
        return State.ABANDONED if reason in ENDED | FAILED else State.REJECTED if reason in REFUSED else None
    if reason is Reason.NODE_LOST and state is State.STARTING:
        return State.FAILED
    return State.ENDED if reason in ENDED else State.FAILED if reason in FAILED else None
