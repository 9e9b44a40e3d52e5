"""The sweep: end what lost its lease. Every node and a Celery task run it, so that no single process is needed for slots to come back.

A lease is the heartbeat of the slot's node, or the grace of a slot that is reconnecting. The sweep only looks; the ledger decides again
under its locks. Bounded: ``BATCH`` of each kind a round.

When nobody could sweep for a lease less one heartbeat (the database was away, or everything was down), heartbeats are old because
they could not be written, not because nodes died: then a whole lease must pass again before a node is taken for lost.
"""

import logging
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import psycopg
from django.conf import settings
from django.db import connection

from sessions_app.domain.operations import End, Operation, Suspend
from sessions_app.domain.states import Reason, State
from sessions_app.services.connections import open_connection
from sessions_app.services.ledger import Ledger

logger = logging.getLogger(__name__)

BATCH: Final = 200
CLAIM_S: Final = 3.0

_CLAIM: Final = """
INSERT INTO sessions_app_claim AS c (name, holder, until, done_at, steady_since)
VALUES ('sweep', %(holder)s, clock_timestamp() + make_interval(secs => %(claim)s), clock_timestamp(), clock_timestamp())
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until, done_at = excluded.done_at,
    steady_since = CASE
        WHEN c.done_at < clock_timestamp() - make_interval(secs => %(gap)s) THEN clock_timestamp()
        ELSE c.steady_since END
WHERE c.until < clock_timestamp()
RETURNING steady_since < clock_timestamp() - make_interval(secs => %(lease)s)"""
_RELEASE: Final = """
UPDATE sessions_app_claim SET until = clock_timestamp(), done_at = clock_timestamp() WHERE name = 'sweep' AND holder = %s"""
_LOST: Final = """
UPDATE sessions_app_node SET state = 'lost'
WHERE state IN ('up', 'draining') AND heartbeat_at < clock_timestamp() - make_interval(secs => %s)"""
# What lives in a room is ended by whoever looks after the room: its lease is what the provider says. Where nobody has looked after it for
# long, all the same.
_IN_ROOM: Final = """EXISTS (SELECT FROM sessions_app_room r WHERE r.session_id = s.session_id AND r.closed_at IS NULL
    AND (r.due_at IS NULL OR r.due_at > clock_timestamp() - interval '60 s'))"""
_ORPHANS: Final = """
SELECT s.session_id, s.node_id, s.state, coalesce(n.heartbeat_at, s.since)
FROM sessions_app_slot s LEFT JOIN sessions_app_node n ON n.id = s.node_id
WHERE s.lease_until IS NULL AND NOT EXISTS (
    SELECT FROM sessions_app_room r WHERE r.session_id = s.session_id AND r.closed_at IS NULL) AND (
    n.state IN ('lost', 'stopped') OR n.id IS NULL AND s.since < clock_timestamp() - make_interval(secs => %s)) LIMIT %s"""
# A living node ends its own, provider first; whom it leaves is ended here.
_PAST_GRACE: Final = f"""
SELECT s.session_id, r.reason, extract(epoch FROM clock_timestamp() - s.lease_until)::float
FROM sessions_app_slot s JOIN sessions_app_session r ON r.id = s.session_id LEFT JOIN sessions_app_node n ON n.id = s.node_id
WHERE s.lease_until < clock_timestamp() AND NOT {_IN_ROOM} AND (
    n.state IS NULL OR n.state NOT IN ('up', 'draining') OR s.lease_until < clock_timestamp() - make_interval(secs => %s)) LIMIT %s"""  # noqa: S608 - of constants
# A node that lives does what it was asked to within a second or two; what it left undone is done here.
_ASKED: Final = f"""
SELECT s.session_id, e.reason, e.detail, e.actor FROM sessions_app_endrequest e
JOIN (SELECT session_id, node_id FROM sessions_app_slot
      UNION ALL SELECT session_id, node_id FROM sessions_app_waiter) AS s USING (session_id)
LEFT JOIN sessions_app_node n ON n.id = s.node_id
WHERE NOT {_IN_ROOM} AND (
    n.state IS NULL OR n.state NOT IN ('up', 'draining') OR e.asked_at < clock_timestamp() - make_interval(secs => %s)) LIMIT %s"""  # noqa: S608 - of constants
# The session's event tells who asked and why; the request has done its work.
_ANSWERED: Final = """
DELETE FROM sessions_app_endrequest WHERE session_id IN (
    SELECT e.session_id FROM sessions_app_endrequest e JOIN sessions_app_session r ON r.id = e.session_id
    WHERE r.ended_at IS NOT NULL LIMIT %s)"""
_LEFT_OVER: Final = """
SELECT s.session_id FROM (
    SELECT session_id, node_id, lease_until FROM sessions_app_slot
    UNION ALL SELECT session_id, node_id, absent_until FROM sessions_app_waiter
) AS s LEFT JOIN sessions_app_node n ON n.id = s.node_id
WHERE s.lease_until IS NOT NULL OR n.state IS NULL OR n.state IN ('lost', 'stopped') ORDER BY 1 LIMIT %s"""
# --- the queue: a place is kept for a client that is away, as a slot is ---------------------------------------------------
_LOST_WAITERS: Final = """
SELECT w.session_id, w.node_id, 'queued', coalesce(n.heartbeat_at, w.since)
FROM sessions_app_waiter w LEFT JOIN sessions_app_node n ON n.id = w.node_id
WHERE w.absent_until IS NULL AND (
    n.state IN ('lost', 'stopped') OR n.id IS NULL AND w.since < clock_timestamp() - make_interval(secs => %s)) LIMIT %s"""
_AWAY_TOO_LONG: Final = "SELECT session_id FROM sessions_app_waiter WHERE absent_until < clock_timestamp() LIMIT %s"
# Their nodes tell them when their time is over; whom they did not tell is told here.
_WAITED_TOO_LONG: Final = """
SELECT w.session_id FROM sessions_app_waiter w JOIN tenants_quota q ON q.tenant_id = w.tenant_id
WHERE w.since < clock_timestamp() - make_interval(secs => q.max_queue_wait_s + %s) LIMIT %s"""
WAIT_SLACK_S: Final = 2
# Why a client had to come back is why its session ends when it does not.
_UNRESUMED: Final = {Reason.NODE_LOST: Reason.NODE_LOST, Reason.DRAINED: Reason.DRAINED}


@dataclass(frozen=True)
class Swept:
    """What one round did: sessions put into their grace, sessions ended, and the seconds that their slots outlived their leases."""

    suspended: int = 0
    ended: int = 0
    leaked_s: float = field(default=0.0, compare=False)


def sweep(*, holder: str) -> Swept:
    """Run one round, unless somebody else is at it.

    Raises:
        psycopg.Error, django.db.Error: the database is away; the next round does what this one could not.
    """
    lease_s = settings.VOICE_LEASE_S
    with connection.cursor() as cursor:
        claimed = _rows(cursor, _CLAIM, {"holder": holder, "claim": CLAIM_S, "lease": lease_s, "gap": lease_s - settings.VOICE_HEARTBEAT_S})
        if not claimed:
            return Swept()
        if claimed[0][0]:
            cursor.execute(_LOST, (lease_s,))
        orphans = _rows(cursor, _ORPHANS, (lease_s, BATCH))
        suspended = _apply(_for_orphan(*row) for row in orphans)
        past = _rows(cursor, _PAST_GRACE, (settings.VOICE_CLOSE_TIMEOUT_S + 1, BATCH))
        ended = _apply(End(row[0], _UNRESUMED.get(row[1], Reason.CLIENT_LOST), expired_only=True) for row in past)
        waiters = _rows(cursor, _LOST_WAITERS, (lease_s, BATCH))
        suspended += _apply(_for_orphan(*row) for row in waiters)
        ended += _apply(End(row[0], Reason.CLIENT_LOST, expired_only=True) for row in _rows(cursor, _AWAY_TOO_LONG, (BATCH,)))
        ended += _apply(End(row[0], Reason.QUEUE_TIMEOUT) for row in _rows(cursor, _WAITED_TOO_LONG, (WAIT_SLACK_S, BATCH)))
        asked = _rows(cursor, _ASKED, (lease_s, BATCH))
        ended += _apply(End(row[0], Reason(row[1]), detail=row[2], actor=row[3]) for row in asked)
        cursor.execute(_ANSWERED, (BATCH,))
        cursor.execute(_RELEASE, (holder,))
    return Swept(suspended, ended, sum(row[2] for row in past) if ended else 0.0)


def end_left_over(reason: Reason) -> int:
    """End, for this reason, every session that waits for its client or that no living node carries: the last node goes down.

    Raises:
        psycopg.Error, django.db.Error: the database is away; the next node's sweep does it.
    """
    ended = 0
    while True:
        with connection.cursor() as cursor:
            left = _rows(cursor, _LEFT_OVER, (BATCH,))
        done = _apply(End(row[0], reason) for row in left)
        ended += done
        if not done:
            return ended


def _for_orphan(session_id: uuid.UUID, node_id: uuid.UUID, state: str, heartbeat: datetime) -> Operation:
    if state == State.STARTING:
        return End(session_id, Reason.NODE_LOST, node_id=node_id)
    return Suspend(session_id, node_id, Reason.NODE_LOST, since=heartbeat, longest_s=settings.VOICE_LOST_GRACE_S)


def _apply(operations: Iterable[Operation]) -> int:
    batch = list(operations)
    if not batch:
        return 0
    with open_connection(name="voiceplatform sweep") as own:
        ledger = Ledger(own)
        try:
            return sum(result is True for result in ledger.apply(batch))
        except psycopg.OperationalError:
            raise
        except psycopg.Error as error:
            if own.closed:
                raise
            logger.warning("a batch of %d is swept one by one: %s", len(batch), type(error).__name__)
            return sum(_apply_one(ledger, each) for each in batch)


def _apply_one(ledger: Ledger, operation: Operation) -> bool:
    """One slot whose rows disagree must not keep those of every other lost node."""
    try:
        return ledger.apply([operation]) == [True]
    except psycopg.OperationalError:
        raise
    except psycopg.Error:
        logger.exception("a slot could not be swept; `manage.py verify_capacity` says what is wrong")
        return False


def _rows(cursor: Any, statement: str, parameters: Any) -> list[tuple[Any, ...]]:
    cursor.execute(statement, parameters)
    return list(cursor.fetchall())
