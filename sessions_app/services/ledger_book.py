"""What one batch of the ledger writes: rows for the second round trip, and the net change of every counter.

Owns: that a change of state always comes with its event. Refuses: deciding anything.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sessions_app.domain.admission import Verdict
from sessions_app.domain.operations import Admit
from sessions_app.domain.rates import Bucket, RateKey
from sessions_app.domain.states import State
from sessions_app.domain.world import Attempt
from sessions_app.selectors.world import Waiting
from sessions_app.services.ledger_sql import LISTS, columns, encode, shared_columns
from sessions_app.services.ledger_world import Held

Row = tuple[Any, ...]
Detail = Mapping[str, Any]
_OWN, _NESTED = frozenset({0, 2, 13}), frozenset({10})  # of a new session: its id, user and place; limits


@dataclass(slots=True)
class Writes:
    """Rows for the second round trip, in the columns of ``voice_write``; what is JSON there is text here.

    Of a new session ``sessions`` tells all: its record, its first event, and the slot or the place that it got. So do ``ended`` and, where
    the batch has other events of it, ``ended_late`` of the end of one that held a slot.
    """

    ended: list[Row] = field(default_factory=list)
    sessions: list[Row] = field(default_factory=list)
    promoted: list[Row] = field(default_factory=list)
    left: list[Row] = field(default_factory=list)
    changes: list[Row] = field(default_factory=list)
    slot_changes: list[Row] = field(default_factory=list)
    waiter_changes: list[Row] = field(default_factory=list)
    events: list[Row] = field(default_factory=list)
    ended_late: list[Row] = field(default_factory=list)
    rates: list[Row] = field(default_factory=list)
    attempts: list[Row] = field(default_factory=list)
    counters: list[Row] = field(default_factory=list)

    def arguments(self) -> list[str | None]:
        """Return the lists as ``voice_write`` takes them; None for each that is empty."""
        return [
            shared_columns(self.sessions, own=_OWN, nested=_NESTED) if name == "sessions" else columns(getattr(self, name))
            for name in LISTS
        ]


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
        detail: Detail | None = None,
        actor: str = "",
    ) -> None:
        """Note a change of a session that holds no slot before it."""
        self.writes.events.append((attempt.session_id, old, new, reason, node, actor[:150], _json(detail), attempt.tenant_id, backend))

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
        self.writes.rates.append((key[1], user, bucket.tokens, bucket.at))

    # --- what has a slot -----------------------------------------------------------------------------------------------
    def record(self, held: Held, new: State, reason: str, *, actor: str = "", detail: Detail | None = None) -> None:
        """Change the state of a session that holds a slot."""
        self.append(held, new, reason, actor=actor, detail=detail)
        held.state, held.reason = new, reason
        self._changed[held.session_id] = held

    def append(self, held: Held, new: State, reason: str, *, actor: str = "", detail: Detail | None = None) -> None:
        """Note an event of a session that holds a slot."""
        held.told = True
        self.writes.events.append(
            (held.session_id, held.state, new, reason, held.node_id, actor[:150], _json(detail), held.tenant_id, held.backend_id)
        )

    def end(self, held: Held, new: State, reason: str, text: str, *, actor: str, detail: Detail | None) -> None:
        """End a session that holds a slot, and give the slot back."""
        ended = self.writes.ended_late if held.told else self.writes.ended
        ended.append((
            held.session_id, held.loaded, held.state, new, reason, text, held.node_id, actor[:150], encode(detail) if detail else None,
            held.tenant_id, held.backend_id, held.pipeline, held.activated,
        ))  # fmt: skip
        held.state, held.over = new, True
        self._changed.pop(held.session_id, None)
        self._touched.pop(held.session_id, None)
        self.slot(held.tenant_id, held.backend_id, -1)

    def touch(self, held: Held) -> None:
        """Note a change of the slot alone."""
        self._touched[held.session_id] = held

    # --- what is new -----------------------------------------------------------------------------------------------------
    def begin(self, operation: Admit, verdict: Verdict, state: State, place: int | None, detail: Detail | None = None) -> None:
        """Note a new session; ``place`` in the queue, where it waits; ``detail`` of its first event."""
        attempt = operation.attempt
        self.writes.sessions.append((
            attempt.session_id, attempt.tenant_id, attempt.user, state, verdict.reason or "", verdict.backend_id,
            verdict.pipeline or attempt.pipeline, attempt.transport, _json(operation.metadata), operation.node_id, verdict.limits,
            operation.trace_id, verdict.burst, place, attempt.backend, encode(detail) if detail else None,
        ))  # fmt: skip
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
        self.writes.left.append((waiting.attempt.session_id,))
        self.queue(waiting.attempt.tenant_id, -1)

    def quit(self, waiting: Waiting, new: State, reason: str, detail: str) -> None:
        """Change the record of a session that waited to its end."""
        self.writes.changes.append((waiting.attempt.session_id, State.QUEUED, new, reason, detail, waiting.node_id, None, "", False, True))

    def promote(self, waiting: Waiting, verdict: Verdict, backend_id: int, waited_ms: int) -> None:
        """Give a slot to a session that waited."""
        attempt, node = waiting.attempt, waiting.node_id
        self.leave(waiting)
        self.writes.promoted.append((
            attempt.session_id, attempt.tenant_id, attempt.user, backend_id, verdict.pipeline, encode(verdict.limits), verdict.burst, node,
            waiting.generation, waiting.floor,
        ))  # fmt: skip
        self.event(attempt, State.QUEUED, State.STARTING, "", node, backend_id, detail={"waited_ms": waited_ms})
        self.slot(attempt.tenant_id, backend_id, 1)

    # --- the end ---------------------------------------------------------------------------------------------------------
    def close(self, counters: set[tuple[str, int]]) -> None:
        """Fill ``writes`` from what was noted; ``counters`` are those that have a row."""
        writes = self.writes
        writes.changes += map(_change, self._changed.values())
        for held in (self._changed | self._touched).values():
            writes.slot_changes.append((
                held.session_id, held.loaded, held.state, held.node_id, held.backend_id, held.lease_until, held.dropped_at,
                held.generation, held.floor, held.stale_uses,
            ))  # fmt: skip
        for waiting in self._moved.values():
            if not waiting.over:
                writes.waiter_changes.append(
                    (waiting.attempt.session_id, waiting.node_id, waiting.absent_until, waiting.generation, waiting.floor)
                )
        writes.attempts = [(tenant, reason, count) for (tenant, reason), count in sorted(self._refused.items())]
        # In one order everywhere: two transactions that take the same rows in different orders deadlock.
        writes.rates.sort(key=lambda row: row[:2])
        keys = sorted(key for key in {*self._active, *self._queued} if self._active[key] or self._queued[key])
        writes.counters = [(*key, self._active[key], self._queued[key], key not in counters) for key in keys]


def _change(held: Held) -> Row:
    return (
        held.session_id, held.loaded, held.state, held.reason, "", held.node_id, held.backend_id, held.pipeline, held.activated, False,
    )  # fmt: skip


def _json(value: Mapping[str, Any] | None) -> str:
    return encode(value) if value else "{}"
