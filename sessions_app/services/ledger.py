"""The ledger: the one writer of session state and of the capacity counters.

Lock contract: every transaction first takes the advisory locks of its tenants, then of every backend that they may use, then of the
platform (exclusive where it has a cap, shared where not), each in the order of their ids; then a sequence number. Whatever touches a
session holds its tenant's lock, so nothing that is read here changes before the commit. Edits of limits take the same locks, by trigger.

Refuses: the network; a batch above ``MAX_BATCH``. Two pipelined round trips: lock and load, then write and commit. Every operation may be
sent again after a lost connection: its ids make it harmless.
"""

import json
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final

import psycopg
from django.conf import settings

from sessions_app.domain.operations import Operation, Promoted, Result
from sessions_app.selectors import world
from sessions_app.services import ledger_sql as sql
from sessions_app.services import ledger_world
from sessions_app.services.ledger_batch import Batch, Floods
from sessions_app.services.ledger_world import Loaded

MAX_BATCH: Final = 512
LOCK_TIMEOUT_MS: Final = 2_000
STATEMENT_TIMEOUT_MS: Final = 3_000
IDLE_TIMEOUT_MS: Final = 2_000  # a client frozen between the two round trips stops everybody else for this long at most

MAX_LOADS: Final = 5  # looks at a world that changes before every lock is held; then the batch counts as failed, and may be tried again

# What a second try may mend: nothing was wrong with the batch itself.
RETRYABLE: Final = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.QueryCanceled,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
)


class Ledger:
    """Runs batches on one connection that nobody else uses, in autocommit; not for two threads at once.

    Attributes:
        promoted: Who got a slot from the queue in the last batch, on whichever node.
    """

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._platform_capped = False
        self._floods = Floods()
        self.promoted: list[Promoted] = []

    def apply(self, operations: Sequence[Operation]) -> list[Result]:
        """Apply a batch in one transaction and return one result for each operation, in order.

        Raises:
            psycopg.Error: nothing was applied, or (a connection lost at the commit) it is not known whether it was.
            ValueError: more than ``MAX_BATCH`` operations.
        """
        if not operations:
            return []
        if len(operations) > MAX_BATCH:
            raise ValueError(f"a batch has at most {MAX_BATCH} operations, not {len(operations)}")
        batch, self.promoted = Batch(operations, self._floods), []
        try:
            loaded = self._load_under_every_lock(batch)
            results = batch.decide(loaded)
            self._write(batch, loaded)
        except BaseException:
            self._roll_back()
            raise
        self.promoted = batch.promoted
        return results

    def _load_under_every_lock(self, batch: Batch) -> Loaded:
        for _ in range(MAX_LOADS):
            loaded = self._load(batch)
            # The platform's cap was set since the last batch: its lock must be held alone.
            newly_capped = loaded.scene.world.platform_limit is not None and not self._platform_capped
            self._platform_capped = loaded.scene.world.platform_limit is not None
            if not newly_capped and not loaded.unlocked:
                return loaded
            self._connection.execute("ROLLBACK")
        raise psycopg.errors.SerializationFailure("limits or slots changed again at every look")

    def _load(self, batch: Batch) -> Loaded:
        connection = self._connection
        who = {
            "tenants": batch.tenant_ids,
            "sessions": batch.session_ids,
            "resumed": batch.resumed_ids,
            "users": batch.users,
            "user_tenants": batch.user_tenants,
            "promote": batch.promotes,
            "queues": batch.queues,
            "waiters": batch.waiters,
        }
        with connection.pipeline():
            connection.execute("BEGIN")
            connection.execute(sql.SETTINGS, (str(LOCK_TIMEOUT_MS), str(STATEMENT_TIMEOUT_MS), str(IDLE_TIMEOUT_MS)))
            locked = connection.execute(sql.LOCK_TENANTS, who)
            connection.execute(sql.ASKING, who)
            locked_backends = connection.execute(sql.LOCK_BACKENDS, who)
            connection.execute(sql.LOCK_PLATFORM if self._platform_capped else sql.LOCK_PLATFORM_SHARED)
            sequence = connection.execute(sql.SEQUENCE)
            sessions = connection.execute(sql.SESSIONS, who)
            slots = connection.execute(sql.SLOTS, (batch.session_ids,))
            own_waiters = connection.execute(sql.OWN_WAITERS, who)
            tenants = connection.execute(world.TENANTS)
            backends = connection.execute(world.BACKENDS, (settings.VOICE_PROBE_STALE_S,))
            platform = connection.execute(world.PLATFORM)
            users = connection.execute(world.USERS, who)
            rates = connection.execute(world.RATES, who)
            reservations = connection.execute(world.RESERVATIONS)
            waiters = connection.execute(sql.WAITERS, who) if batch.promotes else None
        seq, now = sequence.fetchall()[0]
        scene = world.scene(
            now=now,
            tenants=tenants.fetchall(),
            backends=backends.fetchall(),
            platform=platform.fetchall()[0],
            users=users.fetchall(),
            rates=rates.fetchall(),
            reservations=reservations.fetchall(),
            usable={row[0] for row in locked_backends.fetchall()},
        )
        first = waiters.fetchall() if waiters is not None else []
        every = [*first, *own_waiters.fetchall()]
        scene.world.user_used.update({(row[1], row[2]): row[12] for row in every if row[12] is not None})
        waiting = {row[0]: world.waiting(row, now) for row in every}
        held = ledger_world.held(slots.fetchall())
        locked_tenants = set(locked.fetchall()[0][1] or ())
        return Loaded(
            seq=seq,
            now=now,
            scene=scene,
            known=ledger_world.known(sessions.fetchall()),
            held=held,
            waiting=waiting,
            seen_to=ledger_world.seen_to([waiting[row[0]] for row in first], batch.waiters),
            unlocked=any(each.tenant_id not in locked_tenants for each in held.values())
            or any(each.attempt.tenant_id not in locked_tenants for each in waiting.values()),
        )

    def _write(self, batch: Batch, loaded: Loaded) -> None:
        writes = batch.writes
        at = {"now": loaded.now, "seq": loaded.seq}
        with self._connection.pipeline():
            for statement, rows in (
                (sql.INSERT_SESSIONS, writes.sessions),
                (sql.PROMOTE_SESSIONS, writes.promoted),
                (sql.INSERT_SLOTS, writes.slots),
                (sql.INSERT_WAITERS, writes.waiters),
                (sql.UPDATE_SESSIONS, writes.changes),
                (sql.UPDATE_SLOTS, writes.slot_changes),
                (sql.UPDATE_WAITERS, writes.waiter_changes),
                (sql.DELETE_SLOTS, writes.freed),
                (sql.DELETE_WAITERS, writes.left),
                (sql.INSERT_EVENTS, writes.events),
                (sql.UPSERT_RATES, writes.rates),
                (sql.COUNT_ATTEMPTS, writes.attempts),
                (sql.INSERT_CAPACITY, writes.new_counters),
                (sql.UPDATE_CAPACITY, writes.counters),
            ):
                if rows:
                    self._connection.execute(statement, {**_columns(rows), **at, "expected": len(rows)})
            self._connection.execute("COMMIT")

    def _roll_back(self) -> None:
        try:
            if not self._connection.closed and self._connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                self._connection.execute("ROLLBACK")
        except psycopg.Error:
            self._connection.close()


def _columns(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Turn rows into one array a column, for unnest; mappings and lists become JSON text."""
    return {name: [_value(row[name]) for row in rows] for name in rows[0]}


def _value(value: Any) -> Any:
    if isinstance(value, dict | list):
        return json.dumps(value)
    return value.value if isinstance(value, StrEnum) else value
