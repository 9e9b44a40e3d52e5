"""One batch of the ledger between its two round trips: what was loaded, what is decided, what is to be written.

Owns: the meaning of each operation. Releases come first, then moves and attempts, so that a slot freed in this batch can be given
in it. Pure: no connection is in sight, which keeps the network out of the time that the locks are held.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from sessions_app.domain import admission, states
from sessions_app.domain.admission import Attempt, Verdict
from sessions_app.domain.operations import (
    Activate,
    Admit,
    Admitted,
    Adopt,
    BackendRef,
    Confirm,
    End,
    Move,
    Operation,
    Result,
    Resume,
    Resumed,
    Step,
    Suspend,
)
from sessions_app.domain.states import Reason, State
from sessions_app.services.ledger_world import Held, Known, Loaded

Row = dict[str, Any]
MAX_STALE_RECORDED: Final = 5  # old resume tokens that a session's history tells of; more are only refused
MAX_CONNECTIONS: Final = 1000  # of one session, so that a client that comes and goes in a loop fills no table
_NO_TENANT: Final = Verdict(Reason.AUTHENTICATION_FAILED, ())


@dataclass(slots=True)
class Writes:
    """Rows for the second round trip, named after the columns of ``ledger_sql``."""

    sessions: list[Row] = field(default_factory=list)
    slots: list[Row] = field(default_factory=list)
    changes: list[Row] = field(default_factory=list)
    slot_changes: list[Row] = field(default_factory=list)
    freed: list[Row] = field(default_factory=list)
    events: list[Row] = field(default_factory=list)
    counters: list[Row] = field(default_factory=list)
    new_counters: list[Row] = field(default_factory=list)


class Batch:
    """Operations on their way through the ledger. ``decide`` may be called again after the load was repeated."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self.operations = operations
        asking = [each for each in operations if isinstance(each, Admit | Move)]
        self.tenant_ids = sorted({each.attempt.tenant_id for each in asking})
        self.session_ids = [each.attempt.session_id if isinstance(each, Admit | Move) else each.session_id for each in operations]
        self.resumed_ids = [each.session_id for each in operations if isinstance(each, Resume)]
        pairs = {(each.attempt.tenant_id, each.attempt.user) for each in asking}
        self.asked_users = ([tenant for tenant, _ in pairs], [user for _, user in pairs])
        self.writes = Writes()

    def decide(self, loaded: Loaded) -> list[Result]:
        """Decide every operation, fill ``writes``, and return the results in the order of the operations."""
        self.writes = Writes()
        self._loaded = loaded
        self._change: Counter[tuple[str, int]] = Counter()
        self._changed: dict[UUID, Held] = {}
        self._touched: dict[UUID, Held] = {}  # whose slot alone is to be written
        results: dict[int, Result] = {}
        # What waits for an answer of this same batch (an end right behind its admission) keeps its place behind it.
        asking = {each.attempt.session_id for each in self.operations if isinstance(each, Admit | Move)}
        for index, operation in enumerate(self.operations):
            if not isinstance(operation, Admit | Move) and operation.session_id not in asking:
                results[index] = self._live_on(operation)
        for index, operation in enumerate(self.operations):
            if isinstance(operation, Move):
                results[index] = self._move(operation)
            elif isinstance(operation, Admit):
                results[index] = self._admit(operation)
            elif index not in results:
                results[index] = self._live_on(operation)
        self._collect()
        return [results[index] for index in range(len(self.operations))]

    # --- life ----------------------------------------------------------------------------------------------------------
    def _live_on(self, operation: Resume | Step) -> Result:
        return self._resume(operation) if isinstance(operation, Resume) else self._step(operation)

    def _step(self, operation: Step) -> bool:
        held = self._loaded.held.get(operation.session_id)
        if held is None or held.over:
            return False
        match operation:
            case Activate():
                return held.state is State.STARTING and held.node_id == operation.node_id and self._turn_active(held, operation.node_id)
            case Confirm():
                return self._confirm(held, operation)
            case Adopt():
                return self._adopt(held, operation)
            case Suspend():
                return self._suspend(held, operation)
            case End():
                return self._end(held, operation)

    def _resume(self, operation: Resume) -> Resumed:
        """Take the session over from whoever had it: the client may be here before its old node has noticed that it left there."""
        held, known = self._loaded.held.get(operation.session_id), self._loaded.known.get(operation.session_id)
        if held is None or known is None or held.over or (held.tenant_id, held.user) != (operation.tenant_id, operation.user):
            return Resumed(operation.session_id, Reason.AUTHENTICATION_FAILED)
        shown = held.generation if operation.shown is None else operation.shown
        if not held.floor <= shown <= held.generation or held.generation >= MAX_CONNECTIONS:
            self._record_stale(held, shown)
            return Resumed(operation.session_id, Reason.AUTHENTICATION_FAILED)
        if held.state is State.STARTING and held.node_id != operation.node_id:
            return Resumed(operation.session_id, Reason.UNAVAILABLE)  # the node that opens it has not done so yet
        now = self._loaded.now
        gap_ms = round((now - held.dropped_at).total_seconds() * 1000) if held.dropped_at is not None else 0
        # The one before stays good until the new connection has sent a frame: the reply that carries the new one may be lost.
        held.floor, held.generation = shown, held.generation + 1
        if held.state is State.STARTING:
            self._touched[held.session_id] = held
        else:
            self._turn_active(held, operation.node_id, detail={"connection": held.generation, "gap_ms": gap_ms})
        return Resumed(
            session_id=held.session_id,
            generation=held.generation,
            floor=held.floor,
            state=held.state,
            backend=self._loaded.refs.get(held.backend_id),
            pipeline=held.pipeline or known.pipeline,
            transport=known.transport,
            metadata=known.metadata or {},
            policy=self._loaded.policies[held.tenant_id],
            gap_ms=gap_ms,
            active_s=(now - known.active_at).total_seconds() if known.active_at is not None else 0.0,
        )

    def _record_stale(self, held: Held, shown: int) -> None:
        """A resume token that is good no more was shown: a client that lost its memory, or a thief."""
        held.stale_uses += 1
        self._touched[held.session_id] = held
        if held.stale_uses <= MAX_STALE_RECORDED:
            self._append(held, held.state, Reason.AUTHENTICATION_FAILED, detail={"resume_token": shown, "newest": held.generation})

    def _confirm(self, held: Held, operation: Confirm) -> bool:
        if held.node_id != operation.node_id or held.generation != operation.generation:
            return False
        held.floor = operation.generation
        self._touched[held.session_id] = held
        return True

    def _adopt(self, held: Held, operation: Adopt) -> bool:
        if held.node_id not in {operation.was, operation.node_id} or held.state is State.STARTING:
            return False
        held.generation = max(held.generation, operation.generation)
        held.floor = max(held.floor, operation.generation - 1)
        if held.state is State.ACTIVE and held.node_id == operation.node_id:
            self._touched[held.session_id] = held
            return True
        return self._turn_active(held, operation.node_id)

    def _turn_active(self, held: Held, node_id: UUID, *, detail: Row | None = None) -> bool:
        held.node_id, held.lease_until, held.dropped_at, held.activated = node_id, None, None, True
        self._record(held, State.ACTIVE, "", detail=detail)
        return True

    def _suspend(self, held: Held, operation: Suspend) -> bool:
        if held.state is not State.ACTIVE or held.node_id != operation.node_id:
            return False
        since = operation.since or self._loaded.now
        grace = self._loaded.policies[held.tenant_id].grace_s
        held.dropped_at = since
        held.lease_until = since + timedelta(seconds=grace if operation.longest_s is None else min(grace, operation.longest_s))
        self._record(held, State.RECONNECTING, operation.reason)
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
        held.over, held.detail = True, operation.detail[:300]
        self._record(held, new, operation.reason, actor=operation.actor, detail={"text": operation.detail} if operation.detail else {})
        self._count(held.tenant_id, held.backend_id, held.user, -1)
        return True

    # --- admission -----------------------------------------------------------------------------------------------------
    def _admit(self, operation: Admit) -> Admitted:
        attempt, loaded = operation.attempt, self._loaded
        known = loaded.known.get(attempt.session_id)
        if known is not None:
            return self._asked_before(attempt, known)
        if attempt.tenant_id not in loaded.world.tenants:
            return Admitted(attempt.session_id, _NO_TENANT, spent=True)
        verdict = admission.decide(loaded.world, [attempt])[0]
        state = State.STARTING if verdict.admitted else State.REJECTED
        backend = loaded.refs[verdict.backend_id] if verdict.backend_id is not None else None
        reason = verdict.reason or ""
        self.writes.sessions.append({
            "id": attempt.session_id, "tenant": attempt.tenant_id, "user": attempt.user, "state": state, "reason": reason,
            "backend": verdict.backend_id, "pipeline": verdict.pipeline or attempt.pipeline, "transport": attempt.transport,
            "metadata": dict(operation.metadata), "node": operation.node_id, "limits": _vector(verdict),
            "ended": None if verdict.admitted else loaded.now, "started": loaded.now if verdict.admitted else None,
            "trace": operation.trace_id,
        })  # fmt: skip
        self._event(attempt, verdict, state, reason, operation.node_id)
        if backend is not None:
            self.writes.slots.append({
                "id": attempt.session_id, "tenant": attempt.tenant_id, "backend": backend.id, "user": attempt.user, "state": state,
                "node": operation.node_id,
            })  # fmt: skip
            self._change["tenant", attempt.tenant_id] += 1
            self._change["backend", backend.id] += 1
            loaded.held[attempt.session_id] = Held(
                attempt.session_id, attempt.tenant_id, backend.id, attempt.user, state, operation.node_id, None, False, loaded=state
            )
        # Asked twice in one batch: the second finds the first.
        loaded.known[attempt.session_id] = Known(state, operation.node_id, verdict.pipeline, attempt.tenant_id, attempt.user, backend)
        return self._answer(attempt, verdict, state, operation.node_id, backend, verdict.pipeline)

    def _asked_before(self, attempt: Attempt, known: Known) -> Admitted:
        """Answer for a credential that was used before: its session waits or lives, or it is spent."""
        held = self._loaded.held.get(attempt.session_id)
        over = known.state in states.FINAL_STATES or (held is not None and held.over)
        if over or (known.tenant_id, known.user) != (attempt.tenant_id, attempt.user):
            return Admitted(attempt.session_id, _NO_TENANT, state=known.state, spent=True)
        state, node = (held.state, held.node_id) if held is not None else (known.state, known.node_id)
        answer = self._answer(attempt, Verdict(None, ()), state, node, known.backend, known.pipeline)
        return Admitted(**{name: getattr(answer, name) for name in Admitted.__slots__} | {"attached": True})

    def _move(self, operation: Move) -> Admitted:
        attempt, loaded = operation.attempt, self._loaded
        held, known = loaded.held.get(attempt.session_id), loaded.known.get(attempt.session_id)
        if held is None or known is None or held.over or held.node_id != operation.node_id:
            return Admitted(attempt.session_id, _NO_TENANT, state=known.state if known else None, spent=True)
        verdict = admission.choose_other_backend(loaded.world, attempt)
        if verdict.backend_id is None:
            return Admitted(attempt.session_id, verdict, state=held.state, node_id=held.node_id)
        old = held.backend_id
        self._change["backend", old] -= 1
        self._change["backend", verdict.backend_id] += 1
        if old in loaded.world.backends:
            loaded.world.backends[old].used -= 1
        held.backend_id, held.pipeline = verdict.backend_id, verdict.pipeline
        self._record(held, held.state, "", detail={"moved_from": old})
        return self._answer(attempt, verdict, held.state, operation.node_id, loaded.refs[verdict.backend_id], verdict.pipeline)

    def _answer(  # noqa: PLR0917
        self, attempt: Attempt, verdict: Verdict, state: State, node: UUID | None, backend: BackendRef | None, pipeline: str
    ) -> Admitted:
        policy = self._loaded.policies[attempt.tenant_id]
        return Admitted(attempt.session_id, verdict, state, node, backend, pipeline, policy)

    # --- what is to be written -----------------------------------------------------------------------------------------
    def _record(self, held: Held, new: State, reason: str, *, actor: str = "", detail: Row | None = None) -> None:
        self._append(held, new, reason, actor=actor, detail=detail)
        held.state, held.reason = new, reason
        self._changed[held.session_id] = held

    def _append(self, held: Held, new: State, reason: str, *, actor: str = "", detail: Row | None = None) -> None:
        self.writes.events.append({
            "id": held.session_id, "old": held.state, "new": new, "reason": reason, "node": held.node_id, "actor": actor[:150],
            "detail": detail or {}, "tenant": held.tenant_id, "backend": held.backend_id,
        })  # fmt: skip

    def _event(self, attempt: Attempt, verdict: Verdict, new: str, reason: str, node: UUID) -> None:
        self.writes.events.append({
            "id": attempt.session_id, "old": "", "new": new, "reason": reason, "node": node, "actor": "", "detail": {},
            "tenant": attempt.tenant_id, "backend": verdict.backend_id,
        })  # fmt: skip

    def _count(self, tenant_id: int, backend_id: int, user: str, change: int) -> None:
        """Move the counters, and the world that the rest of the batch is decided in."""
        world = self._loaded.world
        self._change["tenant", tenant_id] += change
        self._change["backend", backend_id] += change
        world.platform_used += change
        if tenant_id in world.tenants:
            world.tenants[tenant_id].used += change
        if backend_id in world.backends:
            world.backends[backend_id].used += change
        if (tenant_id, user) in world.user_used:
            world.user_used[tenant_id, user] += change

    def _collect(self) -> None:
        writes = self.writes
        for held in self._changed.values():
            writes.changes.append({
                "id": held.session_id, "old": held.loaded, "new": held.state, "reason": held.reason, "detail": held.detail,
                "node": held.node_id, "backend": held.backend_id, "pipeline": held.pipeline, "activated": held.activated, "over": held.over,
            })  # fmt: skip
            if held.over:
                writes.freed.append({"id": held.session_id})
        for held in (self._changed | self._touched).values():
            if not held.over:
                writes.slot_changes.append({
                    "id": held.session_id, "old": held.loaded, "new": held.state, "node": held.node_id, "backend": held.backend_id,
                    "lease": held.lease_until, "dropped": held.dropped_at, "generation": held.generation, "floor": held.floor,
                    "stale": held.stale_uses,
                })  # fmt: skip
        # In one order everywhere: two transactions that take the same rows in different orders deadlock.
        moved = sorted((key, change) for key, change in self._change.items() if change)
        writes.counters = [{"scope": scope, "ref": ref, "change": change} for (scope, ref), change in moved]
        writes.new_counters = [{"scope": scope, "ref": ref} for (scope, ref), _ in moved if (scope, ref) not in self._loaded.counters]


def _vector(verdict: Verdict) -> list[Row]:
    return [{"scope": entry.scope, "used": entry.used, "limit": entry.limit} for entry in verdict.limits]
