"""The ledger: the one writer of session state and of the capacity counters.

Lock contract: every transaction first takes the advisory locks of its tenants, then of every backend that they may use, then of the
platform (exclusive where it has a cap, shared where not), each in the order of their ids; then a sequence number. Whatever touches a
session holds its tenant's lock, so nothing that is read here changes before the commit. Edits of limits take the same locks, by trigger.

Refuses: the network; a batch above ``MAX_BATCH``. Two pipelined round trips: lock and load, then write and commit; one for ends alone
by which nobody gains who waits for a slot. Every operation may be sent again after a lost connection: its ids make it harmless.

A large batch does not wait for the disk with the locks held: the next one goes on from it, and may be on disk only together with it. Nobody
has an answer before all that it follows from is on disk.
"""

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

import psycopg
from django.conf import settings
from psycopg.pq.abc import PGresult

from sessions_app.domain.operations import End, Operation, Promoted, Result
from sessions_app.services import ledger_ends, ledger_world
from sessions_app.services import ledger_sql as sql
from sessions_app.services.ledger_batch import Batch, Floods
from sessions_app.services.ledger_wire import Wire
from sessions_app.services.ledger_world import Loaded

MAX_BATCH: Final = 512
MANY: Final = 24  # operations that make a batch large; below, what it saves is less than what it costs
LOCK_TIMEOUT_MS: Final = 2_000
STATEMENT_TIMEOUT_MS: Final = 3_000
IDLE_TIMEOUT_MS: Final = 2_000  # a client frozen between the two round trips stops everybody else for this long at most

_AFTER_BEGIN: Final = 2  # answers come before that of what is said behind ``_begin``
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
        self._wire = Wire(connection, sql.STATEMENTS)
        self._platform_capped = False
        self._ends_let_in = False  # somebody who waits, or would have, at the last look
        self._floods = Floods()
        self.promoted: list[Promoted] = []

    def apply(self, operations: Sequence[Operation]) -> list[Result]:
        """Apply a batch in one transaction and return one result for each operation, in order.

        Ends alone may be two transactions: of those that are plain, and of those that are not (any more).

        Raises:
            psycopg.Error: nothing was applied but plain ends, or (a connection lost at a commit) it is not known what was.
            ValueError: more than ``MAX_BATCH`` operations.
        """
        if not operations:
            return []
        if len(operations) > MAX_BATCH:
            raise ValueError(f"a batch has at most {MAX_BATCH} operations, not {len(operations)}")
        self.promoted = []
        try:
            if self._ends_let_in or not ledger_ends.alone(operations):
                return self._decide(operations)
            ended = self._finish(operations)
            others = [each for each in operations if each.session_id not in ended]
            results = iter(self._decide(others) if others else ())
            return [each.session_id in ended or next(results) for each in operations]
        except BaseException:
            self._wire.reset()
            raise

    def _finish(self, ends: Sequence[End]) -> frozenset[UUID]:
        """End those that hold a slot; nobody, where somebody may gain by it who waits for one."""
        self._begin(ends)
        self._wire.say("voice_finish", ledger_ends.told(ends))
        answers = self._commit(durably=_are_many(ends))
        answer = answers[_AFTER_BEGIN].get_value(0, 0)
        self._ends_let_in = answer is None
        return sql.finished(answer) if answer is not None else frozenset()

    def _decide(self, operations: Sequence[Operation]) -> list[Result]:
        batch = Batch(operations, self._floods)
        loaded = self._load_under_every_lock(batch)
        if batch.ends or (batch.promotes and not loaded.queue):  # others do not look, or not for what ends would free
            self._ends_let_in = loaded.may_gain
        results = batch.decide(loaded)
        self._write(batch, loaded)
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
            self._wire.say("ROLLBACK")
            self._wire.answers()
        raise psycopg.errors.SerializationFailure("limits or slots changed again at every look")

    def _load(self, batch: Batch) -> Loaded:
        self._begin(batch.operations)
        self._wire.say(
            "voice_open",
            *[sql.array(each) for each in batch.asked],
            str(batch.promotes),
            str(batch.queues),
            str(batch.waiters),
            str(self._platform_capped),
            str(batch.needs_leases),
            str(settings.VOICE_PROBE_STALE_S),
        )
        answer = self._wire.answers()[-1].get_value(0, 0)
        assert answer is not None
        return ledger_world.loaded(sql.opened(answer))

    def _write(self, batch: Batch, loaded: Loaded) -> None:
        lists = batch.writes.arguments()
        writes = any(lists)
        if writes:
            self._wire.say("voice_write", loaded.now.isoformat(), str(loaded.seq), *lists)
        # One that wrote nothing waits for no disk by itself, and what it tells of may be another's that is not there yet.
        self._commit(durably=_are_many(batch.operations) or not (writes or batch.only_promotes))

    def _begin(self, operations: Sequence[Operation]) -> None:
        self._wire.say("BEGIN")
        self._wire.say(
            "voice_settings_of_many" if _are_many(operations) else "voice_settings",
            str(LOCK_TIMEOUT_MS),
            str(STATEMENT_TIMEOUT_MS),
            str(IDLE_TIMEOUT_MS),
        )

    def _commit(self, *, durably: bool) -> list[PGresult]:
        self._wire.say("COMMIT")
        if durably:
            self._wire.say("voice_durable")
        return self._wire.answers()


def _are_many(operations: Sequence[Operation]) -> bool:
    return len(operations) >= MANY
