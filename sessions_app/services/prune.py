"""Prune: delete history past its retention, so that what is left still adds up.

The horizon is a sequence number: every event up to it is older than the retention. One transaction moves it and writes the opening
balance, the slots in use at the horizon in each scope; later ones delete whole sessions that were over by then. Such a session adds nothing
at the horizon, there or not, so a replay agrees with the balance after each transaction, and a run may die between any two.

Bounded: ``WINDOW`` events or ``BATCH`` sessions a transaction, each with the claim renewed in it, so that of two runs one stops;
``BUDGET_S`` seconds a run, whose rest the next one takes. Takes none of the ledger's locks and touches no session that is not over.
"""

import logging
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.conf import settings
from django.db import connection, transaction

from sessions_app.domain.states import FINAL_STATES, SLOT_STATES
from sessions_app.selectors.limit_records import kind_of
from sessions_app.services import claims

logger = logging.getLogger(__name__)

JOB: Final = "prune"
WINDOW: Final = 20_000  # events that the horizon passes in one transaction
BATCH: Final = 1_000  # sessions, or records of limits, deleted in one; and all that ended with the last of them
STEPS: Final = 2_000
BUDGET_S: Final = 20.0  # well within the task's time limit
CLAIM_S: Final = 60.0
STATEMENT_TIMEOUT_MS: Final = 10_000
LOCK_TIMEOUT_MS: Final = 2_000
NODES_KEPT: Final = 10_000  # that are gone; one that starts and dies in a loop must not fill a table
SMALL_BATCH: Final = 5_000  # of nodes, and of each other kind of small rows
SMALL_STEPS: Final = 20
_FINAL: Final = sorted(state.value for state in FINAL_STATES)
_SLOT: Final = sorted(state.value for state in SLOT_STATES)

_SETTINGS: Final = """
SELECT set_config('voice.ledger', 'on', true), set_config('statement_timeout', %s, true), set_config('lock_timeout', %s, true)"""
_CUTOFF: Final = "SELECT clock_timestamp() - make_interval(days => %s)"
_HORIZON: Final = "SELECT coalesce((SELECT seq FROM sessions_app_openingbalance WHERE scope = 'platform'), 0)"

_NEXT_HORIZON: Final = """
WITH ahead AS (SELECT seq, at FROM sessions_app_sessionevent WHERE seq > %(horizon)s ORDER BY seq LIMIT %(window)s)
SELECT max(seq) FROM ahead WHERE seq < coalesce((SELECT min(seq) FROM ahead WHERE at >= %(cutoff)s), seq + 1)"""
# Before the horizon only sessions that were live at the last one and those of this window have events: few, whatever was deleted.
_OPENING: Final = """
WITH latest AS (
    SELECT DISTINCT ON (session_id) session_id, new, tenant_id, coalesce(backend_id, 0) AS backend_id
    FROM sessions_app_sessionevent WHERE seq <= %(horizon)s ORDER BY session_id, seq DESC, id DESC),
in_use AS (
    SELECT l.tenant_id, l.backend_id, r."user" FROM latest l JOIN sessions_app_session r ON r.id = l.session_id
    WHERE l.new = ANY(%(slot_states)s)),
balance AS (
    SELECT 'platform' AS scope, 0::bigint AS ref, '' AS "user", count(*) AS active FROM in_use
    UNION ALL SELECT 'tenant', tenant_id, '', count(*) FROM in_use GROUP BY tenant_id
    UNION ALL SELECT 'backend', backend_id, '', count(*) FROM in_use GROUP BY backend_id
    UNION ALL SELECT 'user', tenant_id, "user", count(*) FROM in_use GROUP BY tenant_id, "user")
INSERT INTO sessions_app_openingbalance (seq, scope, ref, "user", active, at)
SELECT %(horizon)s, scope, ref, "user", active, clock_timestamp() FROM balance"""
_OVER: Final = """
WITH ends AS (
    SELECT session_id, seq FROM sessions_app_sessionevent WHERE seq > %(after)s AND seq <= %(horizon)s AND new = ANY(%(final)s)
    ORDER BY seq FETCH FIRST (%(batch)s) ROWS WITH TIES)
SELECT e.session_id, e.seq, r.state = ANY(%(final)s) AND NOT EXISTS (SELECT FROM sessions_app_slot s WHERE s.session_id = e.session_id)
    AND NOT EXISTS (SELECT FROM sessions_app_waiter w WHERE w.session_id = e.session_id)
FROM ends e JOIN sessions_app_session r ON r.id = e.session_id"""
_DELETE: Final = (
    "DELETE FROM sessions_app_webhookevent WHERE session_id = ANY(%s::uuid[])",
    "DELETE FROM sessions_app_room WHERE session_id = ANY(%s::uuid[])",
    "DELETE FROM sessions_app_endrequest WHERE session_id = ANY(%s::uuid[])",
    "DELETE FROM sessions_app_sessionevent WHERE session_id = ANY(%s::uuid[])",
    "DELETE FROM sessions_app_session WHERE id = ANY(%s::uuid[])",
)
# The limits in force at the horizon stay. Oldest first, so that no record is left with a gap behind it.
_DELETE_LIMITS: Final = f"""
DELETE FROM sessions_app_limitchange WHERE id IN (
    SELECT c.id FROM sessions_app_limitchange c WHERE c.seq <= %(horizon)s AND (c.new IS NULL OR EXISTS (
        SELECT FROM sessions_app_limitchange n WHERE n.scope = c.scope AND n.ref = c.ref AND n.seq > c.seq AND n.seq <= %(horizon)s
            AND {kind_of("n")} = {kind_of("c")}))
    ORDER BY c.seq, c.id LIMIT %(batch)s)"""  # noqa: S608 - of constants
# A node's name is kept as long as history may tell of it: its last session ended within a day of its last heartbeat.
_DELETE_NODES: Final = """
DELETE FROM sessions_app_node WHERE id IN (
    SELECT n.id FROM sessions_app_node n
    WHERE n.state IN ('stopped', 'lost') AND n.heartbeat_at < clock_timestamp() - interval '1 day'
        AND (n.heartbeat_at < %(cutoff)s::timestamptz - interval '1 day'
             OR n.heartbeat_at <= (SELECT heartbeat_at FROM sessions_app_node ORDER BY heartbeat_at DESC OFFSET %(kept)s LIMIT 1))
        AND NOT EXISTS (SELECT FROM sessions_app_slot s WHERE s.node_id = n.id)
    ORDER BY n.heartbeat_at LIMIT %(batch)s)"""

# Full for long: as good as a new one. One that an admission has in hand is passed over, so that neither waits for the other.
_DELETE_RATES: Final = """
DELETE FROM sessions_app_ratebucket WHERE id IN (
    SELECT id FROM sessions_app_ratebucket WHERE at < clock_timestamp() - interval '1 day'
    ORDER BY at LIMIT %(batch)s FOR UPDATE SKIP LOCKED)"""
_DELETE_COUNTS: Final = """
DELETE FROM sessions_app_attemptcount WHERE id IN (
    SELECT id FROM sessions_app_attemptcount WHERE second < %(cutoff)s ORDER BY second LIMIT %(batch)s)"""
# What providers told and what drifted goes by its own time; a session's webhooks go with the session at the latest.
_DELETE_BY_TIME: Final = tuple(
    f"""
DELETE FROM sessions_app_{table} WHERE id IN (
    SELECT id FROM sessions_app_{table} WHERE {column} < %(cutoff)s ORDER BY {column} LIMIT %(batch)s)"""  # noqa: S608 - of constants
    for table, column in (("webhookevent", "received_at"), ("drift", "at"), ("webhookrefusal", "minute"))
)


@dataclass(slots=True)
class Pruned:
    """What one run deleted; ``more`` where its budget was over before the work was.

    ``counts``: of refused attempts without a record of their own. ``rates``: what was left of rates that nobody has used for a day.
    ``webhooks``: events of providers, counts of those that were refused, and records of drift.
    """

    sessions: int = 0
    limit_changes: int = 0
    counts: int = 0
    nodes: int = 0
    rates: int = 0
    webhooks: int = 0
    more: bool = False


class _Taken(Exception):
    """Somebody else has the claim: this run was frozen for longer than it lasts."""


def prune(*, holder: str) -> Pruned:
    """Run once, unless somebody else does or has just done so.

    Raises:
        django.db.Error: the database is away or did not answer in time; what was committed holds, the next run goes on from there.
    """
    holder = f"{holder}:{uuid.uuid4()}"[-100:]  # a run, not a process: a run that was overtaken must not find its claim again
    if not claims.claim(name=JOB, holder=holder, seconds=CLAIM_S):
        return Pruned()
    run = _Run(holder)
    try:
        run.go()
    except _Taken:
        return run.pruned
    # Kept for half a period where all is done, so that a doubled beat counts once.
    claims.claim(name=JOB, holder=holder, seconds=0 if run.pruned.more else settings.VOICE_PRUNE_TASK_S / 2)
    if run.pruned.sessions:
        logger.info("pruned %d sessions and %d records of limits", run.pruned.sessions, run.pruned.limit_changes)
    return run.pruned


class _Run:
    """One run; ``after`` is the sequence number up to which it has seen to the sessions that were over."""

    def __init__(self, holder: str) -> None:
        self.pruned = Pruned()
        self._holder = holder
        self._after = 0
        self._cutoff: datetime | None = None

    def go(self) -> None:
        until = time.monotonic() + BUDGET_S
        if settings.VOICE_RETENTION_DAYS:
            with self._step() as cursor:
                cursor.execute(_CUTOFF, (settings.VOICE_RETENTION_DAYS,))
                self._cutoff = cursor.fetchone()[0]
        self.pruned.nodes = self._delete_small(_DELETE_NODES)
        self.pruned.rates = self._delete_small(_DELETE_RATES)
        if self._cutoff is None:
            return
        self.pruned.counts = self._delete_small(_DELETE_COUNTS)
        self.pruned.webhooks = sum(self._delete_small(each) for each in _DELETE_BY_TIME)
        for _ in range(STEPS):
            with self._step() as cursor:
                worked = self._one(cursor)
            if not worked:
                return
            if time.monotonic() > until:
                break
        self.pruned.more = True

    def _delete_small(self, statement: str) -> int:
        deleted = 0
        for _ in range(SMALL_STEPS):
            with self._step() as cursor:
                cursor.execute(statement, {"cutoff": self._cutoff, "kept": NODES_KEPT, "batch": SMALL_BATCH})
                deleted += cursor.rowcount
                if cursor.rowcount < SMALL_BATCH:
                    break
        return deleted

    def _one(self, cursor: Any) -> bool:
        """Do one bounded thing; what the horizon left behind goes before the horizon does. False where nothing is left to do."""
        cursor.execute(_HORIZON)
        horizon = cursor.fetchone()[0]
        return self._delete_sessions(cursor, horizon) or self._advance(cursor, horizon) or self._delete_limits(cursor, horizon)

    def _delete_sessions(self, cursor: Any, horizon: int) -> bool:
        cursor.execute(_OVER, {"after": self._after, "horizon": horizon, "final": _FINAL, "batch": BATCH})
        rows = cursor.fetchall()
        if not rows:
            return False
        # A session whose rows disagree stays: `manage.py verify_capacity` names it.
        over = list({session_id for session_id, _, is_over in rows if is_over})
        for statement in _DELETE:
            cursor.execute(statement, (over,))
        self._after = max(seq for _, seq, _ in rows)
        self.pruned.sessions += len(over)
        return True

    def _advance(self, cursor: Any, horizon: int) -> bool:
        cursor.execute(_NEXT_HORIZON, {"horizon": horizon, "window": WINDOW, "cutoff": self._cutoff})
        next_horizon = cursor.fetchone()[0]
        if next_horizon is None:
            return False
        cursor.execute("DELETE FROM sessions_app_openingbalance")
        cursor.execute(_OPENING, {"horizon": next_horizon, "slot_states": _SLOT})
        return True

    def _delete_limits(self, cursor: Any, horizon: int) -> bool:
        cursor.execute(_DELETE_LIMITS, {"horizon": horizon, "batch": BATCH})
        self.pruned.limit_changes += cursor.rowcount
        return bool(cursor.rowcount)

    @contextmanager
    def _step(self) -> Iterator[Any]:
        """Open one short transaction. The claim's row stays locked in it, so no other run is in one of its own meanwhile."""
        with transaction.atomic(durable=True), connection.cursor() as cursor:
            cursor.execute(_SETTINGS, (str(STATEMENT_TIMEOUT_MS), str(LOCK_TIMEOUT_MS)))
            if not claims.claim(name=JOB, holder=self._holder, seconds=CLAIM_S):
                raise _Taken
            yield cursor
