"""The database side of the comparison: a ledger that tells what it did and when, and the rows as the database has them."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import psycopg

from sessions_app.domain.operations import Admit, Admitted, Move, Operation, Promoted, Result, Resumed
from sessions_app.domain.states import TRANSITIONS, Reason, State
from sessions_app.selectors import verification
from sessions_app.services import sweep
from sessions_app.services.ledger import Ledger
from sessions_app.services.ledger_batch import Batch
from sessions_app.services.ledger_life import Life
from sessions_app.services.ledger_world import Loaded
from tests.model.plain import HOLDING, Plain
from tests.model.steps import Answered, Seen

Turns = Sequence[Sequence[Promoted]]  # who was promoted, each time that a batch came to those who wait
Told = Callable[[datetime, Sequence[Operation], Sequence[Result], Turns], None]


class Watched(Ledger):
    """A ledger that tells of each batch when it is written."""

    def __init__(self, connection: psycopg.Connection[Any], told: Told) -> None:
        super().__init__(connection)
        self._told = told
        self._now: datetime | None = None
        self._turns: list[list[Promoted]] = []

    def apply(self, operations: Sequence[Operation]) -> list[Result]:
        results = super().apply(operations)
        if operations:
            assert self._now is not None
            self._told(self._now, operations, results, self._turns)
        return results

    def _load_under_every_lock(self, batch: Batch) -> Loaded:
        loaded = super()._load_under_every_lock(batch)
        self._now = loaded.now
        self._turns = turns = []

        def let_in(life: Life) -> None:
            before = len(batch.promoted)
            Batch._let_waiters_in(batch, life)
            turns.append(batch.promoted[before:])

        vars(batch)["_let_waiters_in"] = let_in
        return loaded


@contextmanager
def sweeps_tell(told: Told) -> Iterator[None]:
    """Let the ledgers that the sweep opens tell of their batches too."""
    names = vars(sweep)
    original, names["Ledger"] = names["Ledger"], lambda connection: Watched(connection, told)
    try:
        yield
    finally:
        names["Ledger"] = original


def in_short(operation: Operation, result: Result) -> Answered:  # noqa: PLR0911
    """Return what the model predicts of a result."""
    if isinstance(result, Resumed):
        if result.refused is not None:
            return (result.refused,)
        return None, result.state, result.generation, result.floor, result.backend.id if result.backend else None
    if not isinstance(result, Admitted):
        return result
    backend = result.backend.id if result.backend else None
    if result.spent:
        return ("spent",)
    if result.attached:
        return "attached", result.state, result.node_id, backend
    if isinstance(operation, Move):
        return "moved", result.verdict.reason, backend
    assert isinstance(operation, Admit)
    assert result.verdict.queued == (result.state is State.QUEUED)
    return result.state, result.verdict.reason, backend, result.verdict.burst


def seen(plain: Plain, sql: psycopg.Connection[Any], results: Sequence[Result], turns: Turns) -> Seen:
    """Return what a ledger did that looked at a part of the queue, for a model that has not followed yet."""
    waits = [each.attempt.session_id for each in plain.waiting()]
    suspended = sql.execute(
        "SELECT id FROM sessions_app_session WHERE id = ANY(%s) AND state = %s AND reason = %s",
        (waits, State.REJECTED, Reason.TENANT_SUSPENDED),
    ).fetchall()
    reasons = {index: each.verdict.reason for index, each in enumerate(results) if isinstance(each, Admitted)}
    return Seen([[each.session_id for each in turn] for turn in turns], {row[0] for row in suspended}, reasons)


def compare(plain: Plain, sql: psycopg.Connection[Any]) -> None:
    """Compare every row and every counter with what the model has."""
    sessions = plain.sessions.items()
    assert dict(_rows(sql, "id, state, reason, burst", "session")) == {key: (each.state, each.reason, each.burst) for key, each in sessions}
    columns = 'session_id, tenant_id, "user", state, backend_id, node_id, lease_until, generation, resume_floor'
    assert dict(_rows(sql, columns, "slot")) == {
        key: (each.tenant, each.user, each.state, each.backend, each.node, each.lease, each.generation, each.floor)
        for key, each in sessions
        if each.state in HOLDING
    }
    columns = 'session_id, tenant_id, "user", since, node_id, absent_until, generation, resume_floor'
    assert dict(_rows(sql, columns, "waiter")) == {
        key: (each.tenant, each.user, each.since, each.node, each.lease, each.generation, each.floor)
        for key, each in sessions
        if each.state is State.QUEUED
    }
    active: Counter[tuple[str, int | None]] = Counter()
    queued: Counter[tuple[str, int | None]] = Counter()
    for _, each in sessions:
        if each.state in HOLDING:
            active.update([("tenant", each.tenant), ("backend", each.backend)])
        elif each.state is State.QUEUED:
            queued["tenant", each.tenant] += 1
    counted = {(scope, ref): (used, waits) for (scope, (ref, used, waits)) in _rows(sql, "scope, ref, active, queued", "capacity")}
    assert {key: each for key, each in counted.items() if any(each)} == {
        key: (active[key], queued[key]) for key in active.keys() | queued.keys()
    }
    assert verification.discrepancies() == []


def check_events(sql: psycopg.Connection[Any]) -> None:
    """Each session's events follow from each other, as the states allow, in the order of the ledger's transactions."""
    last: dict[Any, str] = {}
    before = 0
    for _, (seq, session_id, old, new, reason) in _rows(sql, "id, seq, session_id, old, new, reason", "sessionevent", "ORDER BY id"):
        assert seq >= before
        assert old == last.get(session_id, "")
        stale = old == new and (reason == Reason.AUTHENTICATION_FAILED or new in HOLDING)
        assert stale or State(new) in TRANSITIONS[State(old) if old else None]
        last[session_id], before = new, seq
    assert verification.history().findings == []


def _rows(sql: psycopg.Connection[Any], columns: str, table: str, order: str = "") -> list[tuple[Any, tuple[Any, ...]]]:
    rows = sql.execute(f"SELECT {columns} FROM sessions_app_{table} {order}").fetchall()
    return [(row[0], tuple(row[1:])) for row in rows]
