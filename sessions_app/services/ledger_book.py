"""What one batch of the ledger writes: rows for the second round trip, and the net change of every counter.

Owns: that a change of state always comes with its event. Refuses: deciding anything.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sessions_app.domain.admission import Attempt, Limit, Verdict
from sessions_app.domain.operations import Admit
from sessions_app.domain.rates import Bucket, RateKey
from sessions_app.domain.states import State
from sessions_app.selectors.world import Waiting
from sessions_app.services.ledger_world import Held

Row = dict[str, Any]


@dataclass(slots=True)
class Writes:
    """Rows for the second round trip, as ``voice_write`` takes them.

    Of a new session ``sessions`` tells all: its record, its first event, and the slot or the place that it got.
    """

    sessions: list[Row] = field(default_factory=list)
    promoted: list[Row] = field(default_factory=list)
    left: list[UUID] = field(default_factory=list)
    changes: list[Row] = field(default_factory=list)
    slot_changes: list[Row] = field(default_factory=list)
    waiter_changes: list[Row] = field(default_factory=list)
    events: list[Row] = field(default_factory=list)
    rates: list[Row] = field(default_factory=list)
    attempts: list[Row] = field(default_factory=list)
    counters: list[Row] = field(default_factory=list)


class Book:
    """One batch's. ``close`` turns what was noted into rows.

    Attributes:
        writes: The rows.
    """

    def __init__(self) -> None:
        self.writes = Writes()
        self._active: Counter[tuple[str, int]] = Counter()
        self._queued: Counter[tuple[str, int]] = Counter()
        self._changed: dict[UUID, Held] = {}
        self._touched: dict[UUID, Held] = {}  # whose slot alone is to be written
        self._moved: dict[UUID, Waiting] = {}
        self._refused: Counter[tuple[int, str]] = Counter()

    # --- events and counters -------------------------------------------------------------------------------------------
    def event(  # noqa: PLR0917
        self,
        attempt: Attempt,
        old: str,
        new: str,
        reason: str,
        node: UUID | None,
        backend: int | None,
        detail: Row | None = None,
        actor: str = "",
    ) -> None:
        """Note a change of a session that holds no slot before it."""
        self.writes.events.append({
            "id": attempt.session_id, "old": old, "new": new, "reason": reason, "node": node, "actor": actor[:150], "detail": detail or {},
            "tenant": attempt.tenant_id, "backend": backend,
        })  # fmt: skip

    def slot(self, tenant_id: int, backend_id: int, change: int) -> None:
        """Count slots taken or given back."""
        self._active["tenant", tenant_id] += change
        self._active["backend", backend_id] += change

    def moved(self, old: int, new: int) -> None:
        """Count a slot that changes its backend."""
        self._active["backend", old] -= 1
        self._active["backend", new] += 1

    def queue(self, tenant_id: int, change: int) -> None:
        """Count places in the queue."""
        self._queued["tenant", tenant_id] += change

    def refused(self, tenant_id: int, reason: str) -> None:
        """Count an attempt that gets no record of its own."""
        self._refused[tenant_id, reason] += 1

    def spent(self, key: RateKey, bucket: Bucket) -> None:
        """Note what is left of a rate."""
        user = key[2] if len(key) == 3 else ""
        self.writes.rates.append({"tenant": key[1], "user": user, "tokens": bucket.tokens, "time": bucket.at})

    # --- what has a slot -----------------------------------------------------------------------------------------------
    def record(self, held: Held, new: State, reason: str, *, actor: str = "", detail: Row | None = None) -> None:
        """Change the state of a session that holds a slot."""
        self.append(held, new, reason, actor=actor, detail=detail)
        held.state, held.reason = new, reason
        self._changed[held.session_id] = held

    def append(self, held: Held, new: State, reason: str, *, actor: str = "", detail: Row | None = None) -> None:
        """Note an event of a session that holds a slot."""
        self.writes.events.append({
            "id": held.session_id, "old": held.state, "new": new, "reason": reason, "node": held.node_id, "actor": actor[:150],
            "detail": detail or {}, "tenant": held.tenant_id, "backend": held.backend_id,
        })  # fmt: skip

    def touch(self, held: Held) -> None:
        """Note a change of the slot alone."""
        self._touched[held.session_id] = held

    # --- what is new -----------------------------------------------------------------------------------------------------
    def begin(self, operation: Admit, verdict: Verdict, state: State, place: int | None) -> None:
        """Note a new session; ``place`` in the queue, where it waits."""
        attempt = operation.attempt
        self.writes.sessions.append({
            "id": attempt.session_id, "tenant": attempt.tenant_id, "user": attempt.user, "state": state, "reason": verdict.reason or "",
            "backend": verdict.backend_id, "pipeline": verdict.pipeline or attempt.pipeline, "transport": attempt.transport,
            "metadata": operation.metadata, "node": operation.node_id, "limits": vector(verdict), "trace": operation.trace_id,
            "burst": verdict.burst, "place": place, "wanted": attempt.backend,
        })  # fmt: skip
        if verdict.backend_id is not None:
            self.slot(attempt.tenant_id, verdict.backend_id, 1)
        elif place is not None:
            self.queue(attempt.tenant_id, 1)

    # --- what waits ------------------------------------------------------------------------------------------------------
    def turn(self, waiting: Waiting) -> None:
        """Note a change of a place: its node, its client's absence, its tokens."""
        self._moved[waiting.attempt.session_id] = waiting

    def leave(self, waiting: Waiting) -> None:
        """Take a place away."""
        waiting.over = True
        self.writes.left.append(waiting.attempt.session_id)
        self.queue(waiting.attempt.tenant_id, -1)

    def quit(self, waiting: Waiting, new: State, reason: str, detail: str) -> None:
        """Change the record of a session that waited to its end."""
        self.writes.changes.append({
            "id": waiting.attempt.session_id, "old": State.QUEUED, "new": new, "reason": reason, "detail": detail, "node": waiting.node_id,
            "backend": None, "pipeline": "", "activated": False, "over": True,
        })  # fmt: skip

    def promote(self, waiting: Waiting, verdict: Verdict, backend_id: int, waited_ms: int) -> None:
        """Give a slot to a session that waited."""
        attempt, node = waiting.attempt, waiting.node_id
        self.leave(waiting)
        self.writes.promoted.append({
            "id": attempt.session_id, "tenant": attempt.tenant_id, "user": attempt.user, "backend": backend_id,
            "pipeline": verdict.pipeline, "limits": vector(verdict), "burst": verdict.burst, "node": node,
            "generation": waiting.generation, "floor": waiting.floor,
        })  # fmt: skip
        self.event(attempt, State.QUEUED, State.STARTING, "", node, backend_id, detail={"waited_ms": waited_ms})
        self.slot(attempt.tenant_id, backend_id, 1)

    # --- the end -----------------------------------------------------------------------------------------------------------
    def close(self, counters: set[tuple[str, int]]) -> None:
        """Fill ``writes`` from what was noted; ``counters`` are those that have a row."""
        writes = self.writes
        for held in self._changed.values():
            writes.changes.append({
                "id": held.session_id, "old": held.loaded, "new": held.state, "reason": held.reason, "detail": held.detail,
                "node": held.node_id, "backend": held.backend_id, "pipeline": held.pipeline, "activated": held.activated, "over": held.over,
                "freed": held.over,
            })  # fmt: skip
        for held in (self._changed | self._touched).values():
            if not held.over:
                writes.slot_changes.append({
                    "id": held.session_id, "old": held.loaded, "new": held.state, "node": held.node_id, "backend": held.backend_id,
                    "lease": held.lease_until, "dropped": held.dropped_at, "generation": held.generation, "floor": held.floor,
                    "stale": held.stale_uses,
                })  # fmt: skip
        for waiting in self._moved.values():
            if not waiting.over:
                writes.waiter_changes.append({
                    "id": waiting.attempt.session_id, "node": waiting.node_id, "absent": waiting.absent_until,
                    "generation": waiting.generation, "floor": waiting.floor,
                })  # fmt: skip
        writes.attempts = [
            {"tenant": tenant, "reason": reason, "count": count} for (tenant, reason), count in sorted(self._refused.items())
        ]
        # In one order everywhere: two transactions that take the same rows in different orders deadlock.
        writes.rates.sort(key=lambda row: (row["tenant"], row["user"]))
        keys = sorted(key for key in {*self._active, *self._queued} if self._active[key] or self._queued[key])
        writes.counters = [
            {"scope": key[0], "ref": key[1], "change": self._active[key], "waiting": self._queued[key], "new": key not in counters}
            for key in keys
        ]


def vector(verdict: Verdict) -> list[Row]:
    """Return a verdict's limits as they are stored; what is nothing special is left out."""
    return [_entry(each) for each in verdict.limits]


def _entry(limit: Limit) -> Row:
    entry: Row = {"scope": limit.scope, "used": limit.used, "limit": limit.limit}
    if limit.reserved:
        entry["reserved"] = limit.reserved
    if limit.burst:
        entry["burst"] = limit.burst
    return entry
