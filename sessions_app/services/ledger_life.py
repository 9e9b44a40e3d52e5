"""What happens to sessions that wait or hold a slot: they become active, lose their client, get it back, end.

Owns: each operation's meaning but admission's. An operation that comes too late, or from a node that has the session no more, is a normal
return of False. Pure, as all of a batch between its two round trips.
"""

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from sessions_app.domain import states
from sessions_app.domain.operations import Activate, Adopt, Confirm, End, Joined, Left, Resume, Resumed, Step, Suspend
from sessions_app.domain.states import Reason, State
from sessions_app.selectors.world import Waiting
from sessions_app.services.ledger_book import Book, Detail
from sessions_app.services.ledger_world import Held, Known, Loaded

MAX_STALE_RECORDED: Final = 5  # old resume tokens that a session's history tells of; more are only refused
MAX_CONNECTIONS: Final = 1000  # of one session, so that a client that comes and goes in a loop fills no table


class Life:
    """Applies operations to what was loaded, and notes in the book what is to be written."""

    def __init__(self, loaded: Loaded, book: Book) -> None:
        self._loaded = loaded
        self._book = book

    def apply(self, operation: Resume | Step) -> Resumed | bool:
        """Apply one, whichever it is."""
        return self.resume(operation) if isinstance(operation, Resume) else self.step(operation)

    def step(self, operation: Step) -> bool:
        """Apply one; False where it does not fit (any more)."""
        held = self._loaded.held.get(operation.session_id)
        if held is not None and not held.over:
            return self._step_of_slot(held, operation)
        waiting = self._loaded.waiting.get(operation.session_id)
        return waiting is not None and not waiting.over and self._step_in_queue(waiting, operation)

    def resume(self, operation: Resume) -> Resumed:
        """Take the session over from whoever had it: the client may be here before its old node has noticed that it left there."""
        held, waiting = self._loaded.held.get(operation.session_id), self._loaded.waiting.get(operation.session_id)
        known = self._loaded.known.get(operation.session_id)
        if known is None or (known.tenant_id, known.user) != (operation.tenant_id, operation.user):
            return Resumed(operation.session_id, Reason.AUTHENTICATION_FAILED)
        if held is not None and not held.over:
            return self._resume_slot(held, known, operation)
        if waiting is not None and not waiting.over:
            return self._resume_place(waiting, known, operation)
        return Resumed(operation.session_id, Reason.AUTHENTICATION_FAILED)

    # --- sessions that hold a slot -----------------------------------------------------------------------------------------
    def _step_of_slot(self, held: Held, operation: Step) -> bool:  # noqa: PLR0911 - one for each operation
        match operation:
            case End():
                return self._end(held, operation)
            case Activate():
                return held.state is State.STARTING and held.node_id == operation.node_id and self._turn_active(held, operation.node_id)
            case Joined():
                return self._joined(held)
            case Left():
                return self._lose_client(held, Reason.CLIENT_LOST, self._loaded.now, self._grace(held.tenant_id))
            case Confirm():
                return self._confirm(held, operation)
            case Adopt():
                return self._adopt(held, operation)
            case Suspend():
                return self._suspend(held, operation)

    def _resume_slot(self, held: Held, known: Known, operation: Resume) -> Resumed:
        shown = held.generation if operation.shown is None else operation.shown
        if not _is_good(held, shown):
            self._record_stale(held, shown)
            return Resumed(operation.session_id, Reason.AUTHENTICATION_FAILED)
        in_room = known.transport == "webrtc"
        if held.state is State.STARTING and held.node_id != operation.node_id and not in_room:
            return Resumed(operation.session_id, Reason.UNAVAILABLE)  # the node that opens it has not done so yet
        now = self._loaded.now
        gap_ms = round((now - held.dropped_at).total_seconds() * 1000) if held.dropped_at is not None else 0
        # The one before stays good until the new connection has sent a frame: the reply that carries the new one may be lost.
        held.floor, held.generation = shown, held.generation + 1
        if held.state is State.STARTING or in_room:
            # What makes a session in a room active is that its user is in the room, not that its client is connected here.
            held.node_id = operation.node_id
            self._book.touch(held)
        else:
            self._turn_active(held, operation.node_id, detail={"connection": held.generation, "gap_ms": gap_ms})
        return Resumed(
            session_id=held.session_id,
            generation=held.generation,
            floor=held.floor,
            state=held.state,
            backend=self._loaded.scene.refs.get(held.backend_id),
            pipeline=held.pipeline or known.pipeline,
            transport=known.transport,
            metadata=known.metadata or {},
            policy=self._loaded.scene.policies[held.tenant_id],
            gap_ms=gap_ms,
            active_s=(now - known.active_at).total_seconds() if known.active_at is not None else 0.0,
        )

    def _record_stale(self, held: Held, shown: int) -> None:
        """A resume token that is good no more was shown: a client that lost its memory, or a thief."""
        held.stale_uses += 1
        self._book.touch(held)
        if held.stale_uses <= MAX_STALE_RECORDED:
            detail = {"resume_token": shown, "newest": held.generation}
            self._book.append(held, held.state, Reason.AUTHENTICATION_FAILED, detail=detail)

    def _joined(self, held: Held) -> bool:
        if held.state is State.ACTIVE:
            return False
        gap = self._loaded.now - held.dropped_at if held.dropped_at is not None else None
        detail = {"gap_ms": round(gap.total_seconds() * 1000)} if gap is not None else None
        return self._turn_active(held, held.node_id, detail=detail)

    def _turn_active(self, held: Held, node_id: UUID | None, *, detail: Detail | None = None) -> bool:
        held.node_id, held.lease_until, held.expired, held.dropped_at, held.activated = node_id, None, False, None, True
        self._book.record(held, State.ACTIVE, "", detail=detail)
        return True

    def _confirm(self, held: Held, operation: Confirm) -> bool:
        if held.node_id != operation.node_id or held.generation != operation.generation:
            return False
        held.floor = operation.generation
        self._book.touch(held)
        return True

    def _adopt(self, held: Held, operation: Adopt) -> bool:
        if held.node_id not in {operation.was, operation.node_id} or held.state is State.STARTING:
            return False
        held.generation = max(held.generation, operation.generation)
        held.floor = max(held.floor, operation.generation - 1)
        if held.state is State.ACTIVE and held.node_id == operation.node_id:
            self._book.touch(held)
            return True
        return self._turn_active(held, operation.node_id)

    def _suspend(self, held: Held, operation: Suspend) -> bool:
        if held.node_id != operation.node_id:
            return False
        grace = self._grace(held.tenant_id, operation.longest_s)
        return self._lose_client(held, operation.reason, operation.since or self._loaded.now, grace)

    def _lose_client(self, held: Held, reason: Reason, since: datetime, grace: timedelta) -> bool:
        if held.state is not State.ACTIVE:
            return False
        held.dropped_at = since
        held.lease_until = since + grace
        self._book.record(held, State.RECONNECTING, reason)
        return True

    def _end(self, held: Held, operation: End) -> bool:
        if operation.expired_only and not held.expired:
            return False
        if operation.node_id is not None and held.node_id != operation.node_id:
            return False
        try:
            new = states.final_state(operation.reason, held.state)
        except ValueError:
            return False
        self._book.end(held, new, operation.reason, operation.detail[:300], actor=operation.actor, detail=text_of(operation))
        self._loaded.scene.world.release(tenant_id=held.tenant_id, backend_id=held.backend_id, user=held.user)
        return True

    # --- sessions that wait ------------------------------------------------------------------------------------------------
    def _step_in_queue(self, waiting: Waiting, operation: Step) -> bool:
        match operation:
            case Activate() | Joined() | Left():
                return False
            case Confirm():
                if waiting.node_id != operation.node_id or waiting.generation != operation.generation:
                    return False
                waiting.floor = operation.generation
            case Adopt():
                if waiting.node_id not in {operation.was, operation.node_id}:
                    return False
                waiting.node_id, waiting.absent_until, waiting.expired = operation.node_id, None, False
                waiting.generation = max(waiting.generation, operation.generation)
                waiting.floor = max(waiting.floor, operation.generation - 1)
            case Suspend():
                if waiting.node_id != operation.node_id or waiting.absent_until is not None:
                    return False
                waiting.absent_until = (operation.since or self._loaded.now) + self._grace(waiting.attempt.tenant_id, operation.longest_s)
            case End():
                return self._leave(waiting, operation)
        self._book.turn(waiting)
        return True

    def _resume_place(self, waiting: Waiting, known: Known, operation: Resume) -> Resumed:
        shown = waiting.generation if operation.shown is None else operation.shown
        if not _is_good(waiting, shown):
            return Resumed(operation.session_id, Reason.AUTHENTICATION_FAILED)
        waiting.floor, waiting.generation = shown, waiting.generation + 1
        waiting.node_id, waiting.absent_until, waiting.expired = operation.node_id, None, False
        self._book.turn(waiting)
        attempt = waiting.attempt
        return Resumed(
            session_id=attempt.session_id,
            generation=waiting.generation,
            floor=waiting.floor,
            state=State.QUEUED,
            pipeline=attempt.pipeline,
            transport=attempt.transport,
            wanted_backend=attempt.backend,
            metadata=known.metadata or {},
            policy=self._loaded.scene.policies[attempt.tenant_id],
            waited_s=(self._loaded.now - waiting.since).total_seconds(),
            max_wait_s=self._loaded.scene.world.tenants[attempt.tenant_id].max_queue_wait_s,
        )

    def _leave(self, waiting: Waiting, operation: End) -> bool:
        if operation.expired_only and not waiting.expired:
            return False
        if operation.node_id is not None and waiting.node_id != operation.node_id:
            return False
        try:
            new = states.final_state(operation.reason, State.QUEUED)
        except ValueError:
            return False
        self._book.leave(waiting)
        self._book.quit(waiting, new, operation.reason, operation.detail[:300])
        self._book.event(
            waiting.attempt, State.QUEUED, new, operation.reason, waiting.node_id, None, detail=text_of(operation), actor=operation.actor
        )
        tenant = self._loaded.scene.world.tenants.get(waiting.attempt.tenant_id)
        if tenant is not None:
            tenant.queued = max(0, tenant.queued - 1)
        return True

    def _grace(self, tenant_id: int, longest_s: float | None = None) -> timedelta:
        grace = self._loaded.scene.policies[tenant_id].grace_s
        return timedelta(seconds=grace if longest_s is None else min(grace, longest_s))


def _is_good(who: Held | Waiting, shown: int) -> bool:
    return who.floor <= shown <= who.generation < MAX_CONNECTIONS


def text_of(operation: End) -> Detail:
    """Return what the event of an end tells."""
    return {"text": operation.detail} if operation.detail else {}
