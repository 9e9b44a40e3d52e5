"""Do counters, slots and sessions agree, and does the history bear them out? Read in one snapshot, so it may run on a live platform.

Each check is one statement that finds nothing when all is well. Limit: sessions in a slot state are found by a scan of the records,
which have no index on the state on purpose. The history is streamed, ``CHUNK`` rows at a time; its snapshot holds vacuum back meanwhile.
What leaves no trace is not found: a session that is over, taken away with all of its events.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.db import connection, transaction

from sessions_app.selectors import limit_records
from sessions_app.selectors.limit_records import ACCESS, NOW, OVERRIDE, Record, kind_of, microseconds
from sessions_app.selectors.replay import Event, Findings, Replay
from sessions_app.selectors.replay_limits import Access, Limit, Override, Scope

CHECKS: Final = {
    "counter of tenant {} says {} in use, its slots are {}": """
        SELECT coalesce(c.ref, s.tenant_id), coalesce(c.active, 0), coalesce(s.n, 0)
        FROM (SELECT ref, active FROM sessions_app_capacity WHERE scope = 'tenant') c
        FULL JOIN (SELECT tenant_id, count(*) n FROM sessions_app_slot GROUP BY 1) s ON s.tenant_id = c.ref
        WHERE coalesce(c.active, 0) <> coalesce(s.n, 0) ORDER BY 1""",
    "counter of backend {} says {} in use, its slots are {}": """
        SELECT coalesce(c.ref, s.backend_id), coalesce(c.active, 0), coalesce(s.n, 0)
        FROM (SELECT ref, active FROM sessions_app_capacity WHERE scope = 'backend') c
        FULL JOIN (SELECT backend_id, count(*) n FROM sessions_app_slot GROUP BY 1) s ON s.backend_id = c.ref
        WHERE coalesce(c.active, 0) <> coalesce(s.n, 0) ORDER BY 1""",
    "session {} is {}, its slot is {}": """
        SELECT coalesce(r.id, s.session_id), r.state, coalesce(s.state, 'missing')
        FROM sessions_app_session r FULL JOIN sessions_app_slot s ON s.session_id = r.id
        WHERE (s.session_id IS NOT NULL OR r.state IN ('starting', 'active', 'reconnecting'))
          AND (s.session_id IS NULL OR r.state <> s.state OR r.tenant_id <> s.tenant_id OR r."user" <> s."user"
               OR r.backend_id IS DISTINCT FROM s.backend_id) ORDER BY 1""",
    "counter of tenant {} says {} waiting, its places in the queue are {}": """
        SELECT coalesce(c.ref, w.tenant_id), coalesce(c.queued, 0), coalesce(w.n, 0)
        FROM (SELECT ref, queued FROM sessions_app_capacity WHERE scope = 'tenant') c
        FULL JOIN (SELECT tenant_id, count(*) n FROM sessions_app_waiter GROUP BY 1) w ON w.tenant_id = c.ref
        WHERE coalesce(c.queued, 0) <> coalesce(w.n, 0) ORDER BY 1""",
    "session {} is {}, its place in the queue is {}": """
        SELECT r.id, r.state, CASE WHEN w.session_id IS NULL THEN 'missing' ELSE 'there' END
        FROM sessions_app_session r FULL JOIN sessions_app_waiter w ON w.session_id = r.id
        WHERE (w.session_id IS NOT NULL OR r.state = 'queued')
          AND (w.session_id IS NULL OR r.state <> 'queued' OR r.tenant_id <> w.tenant_id OR r."user" <> w."user") ORDER BY 1""",
    "session {} is {}, its last event says {}": """
        SELECT r.id, r.state, coalesce(e.new, 'nothing') FROM sessions_app_session r
        LEFT JOIN LATERAL (SELECT new FROM sessions_app_sessionevent WHERE session_id = r.id ORDER BY id DESC LIMIT 1) e ON true
        WHERE r.state IS DISTINCT FROM e.new ORDER BY 1""",
}
MOST: Final = 100
MOST_FINDINGS: Final = 50
CHUNK: Final = 2_000

_OPENING: Final = """
SELECT scope, ref, "user", active, seq FROM sessions_app_openingbalance ORDER BY scope <> 'platform', scope, ref, 3"""
# What a replay needs of the session comes with its start: look-ups by key, whatever plan the rest has.
_EVENTS: Final = """
SELECT e.id, e.seq, e.session_id, e.old, e.new, (extract(epoch FROM e.at) * 1000000)::bigint, e.tenant_id, e.backend_id,
    CASE WHEN e.old = '' THEN (SELECT s.tenant_id FROM sessions_app_session s WHERE s.id = e.session_id) END,
    CASE WHEN e.old = '' THEN (SELECT s."user" FROM sessions_app_session s WHERE s.id = e.session_id) END,
    CASE WHEN e.old = '' THEN NOT EXISTS (
        SELECT FROM sessions_app_sessionevent b WHERE b.session_id = e.session_id AND b.id < e.id) END,
    CASE WHEN e.new = 'starting' AND e.old <> 'starting' THEN (SELECT s.burst FROM sessions_app_session s WHERE s.id = e.session_id) END
FROM sessions_app_sessionevent e ORDER BY e.seq, e.id"""
_LIMITS: Final = f"""
SELECT c.seq, c.scope, c.ref, {kind_of("c")}, c.new::text FROM sessions_app_limitchange c
WHERE c.scope <> 'access' AND {kind_of("c")} <> 'tenant' ORDER BY c.seq, c.id"""  # noqa: S608 - of constants
# A version that did not record who may use which backend left its mark where the record begins.
_ACCESS_SINCE: Final = "SELECT coalesce(max(seq), 0) FROM sessions_app_limitchange WHERE scope = 'access'"
_RECORDS: Final = f"""
SELECT scope COLLATE "C", ref, kind COLLATE "C", seq, id, old::text, new::text FROM (
    SELECT scope, ref, {kind_of("c")} AS kind, seq, id, old, new FROM sessions_app_limitchange c WHERE scope <> 'access'
    UNION ALL SELECT 'tenant', tenant_id, 'quota', {NOW}, 0, NULL, to_jsonb(q) FROM tenants_quota q
    UNION ALL SELECT 'tenant', tenant_id, '{OVERRIDE}' || id, {NOW}, 0, NULL, to_jsonb(o) FROM tenants_override o
    UNION ALL SELECT 'tenant', tenant_id, '{ACCESS}' || id, {NOW}, 0, NULL, to_jsonb(a) FROM sessions_app_backendaccess a
    UNION ALL SELECT 'tenant', id, 'tenant', {NOW}, 0, NULL, to_jsonb(t) FROM tenants_tenant t
    UNION ALL SELECT 'backend', id, 'backend', {NOW}, 0, NULL, to_jsonb(b) - 'secrets' FROM sessions_app_backend b
    UNION ALL SELECT 'platform', id, 'platform', {NOW}, 0, NULL, to_jsonb(p) FROM sessions_app_platform p
) AS both_sides ORDER BY 1, 2, 3, 4, 5"""  # noqa: S608 - of constants
_SLOTS: Final = 'SELECT session_id, state, tenant_id, backend_id, "user" FROM sessions_app_slot ORDER BY session_id'
_COUNTERS: Final = "SELECT scope, ref, active FROM sessions_app_capacity ORDER BY scope, ref"
_GIVEN_OUT: Final = "SELECT last_value FROM voice_ledger_seq"


@dataclass(frozen=True, slots=True)
class History:
    """What a replay went through, and what it found.

    Attributes:
        findings: At most ``MOST_FINDINGS`` sentences, ``found`` how many there were; none when all is well.
        attempts: Sessions whose beginning is in the history, ``admissions`` how many of them got a slot.
        limits: Changes of limits.
        horizon: Number up to which history was pruned; 0: it is whole.
    """

    findings: list[str]
    found: int
    events: int
    attempts: int
    admissions: int
    limits: int
    horizon: int
    first_at: datetime | None
    last_at: datetime | None


def discrepancies() -> list[str]:
    """Return one sentence for each thing that does not agree, at most ``MOST`` for each check; empty when all is well."""
    with _snapshot():
        return _discrepancies()


def history() -> History:
    """Do the same, and replay the history against the limits that were in force at each moment."""
    found = Findings(MOST_FINDINGS)
    with _snapshot():
        for sentence in _discrepancies():
            found.add(sentence)
        opening, horizon = _opening(found)
        limit_records.check(map(Record._make, _stream(_RECORDS)), horizon=horizon, found=found)
        replay = Replay(horizon=horizon, opening=opening, access_since=next(_stream(_ACCESS_SINCE))[0], found=found)
        _feed(replay)
        replay.compare(slots=_stream(_SLOTS), counters=_stream(_COUNTERS))
        given_out = next(_stream(_GIVEN_OUT))[0]
        if replay.last_seq > given_out:
            found.add(f"the history goes on to sequence number {replay.last_seq}, the ledger has given out no more than {given_out}")
    return History(
        findings=found.sentences,
        found=found.count,
        events=replay.events,
        attempts=replay.attempts,
        admissions=replay.admissions,
        limits=replay.limits,
        horizon=horizon,
        first_at=_time(replay.first_us),
        last_at=_time(replay.last_us),
    )


def _discrepancies() -> list[str]:
    found: list[str] = []
    with connection.cursor() as cursor:
        for sentence, statement in CHECKS.items():
            cursor.execute(f"{statement} LIMIT {MOST}")
            found += [sentence.format(*row) for row in cursor.fetchall()]
    return found


def _opening(found: Findings) -> tuple[dict[Scope, int], int]:
    """Return the opening balance and its horizon; nothing and 0 where nothing was pruned."""
    opening: dict[Scope, int] = {}
    horizon = 0
    for scope, ref, user, active, seq in _stream(_OPENING):
        if not opening:
            horizon = seq
            if scope != "platform":
                found.add("the opening balance of the platform is missing")
        if seq != horizon:
            found.add(f"the opening balance of {scope} {ref} is of sequence number {seq}, the others are of {horizon}")
        opening[scope, ref, user] = active
    return opening, horizon


def _feed(replay: Replay) -> None:
    changes = _stream(_LIMITS)
    change = next(changes, None)
    for event in map(Event._make, _stream(_EVENTS)):
        while change is not None and change[0] <= event.seq:
            _change(replay, *change)
            change = next(changes, None)
        replay.event(event)
    while change is not None:
        _change(replay, *change)
        change = next(changes, None)
    replay.settle()


def _change(replay: Replay, seq: int, scope: str, ref: int, kind: str, new: str | None) -> None:  # noqa: PLR0917
    """Hand over a record. What is no limit counts as unlimited here, or as not told: the check of the records names it."""
    row = json.loads(new) if new is not None else None
    if kind.startswith(OVERRIDE):
        starts_us, ends_us = microseconds(_of(row, "starts_at")) or 0, microseconds(_of(row, "ends_at")) or 0
        replay.override(Override(seq, kind, ref, str(_of(row, "field")), _number(_of(row, "change")) or 0, starts_us, ends_us))
    elif kind.startswith(ACCESS):
        replay.access(Access(seq, kind, ref, _number(_of(row, "backend_id"))))
    elif row is None:
        # Nobody is let in where there is nothing; without its row, the platform has no cap.
        replay.limit(Limit(seq, scope, ref, None if scope == "platform" else 0))
    elif scope == "backend":
        share, name = _of(row, "burst_below"), _of(row, "name")
        below = float(share) if isinstance(share, int | float) else None
        replay.limit(
            Limit(seq, scope, ref, _number(_of(row, "cap")), burst_below=below, name=str(name), enabled=_of(row, "enabled") is True)
        )
    else:
        replay.limit(
            Limit(
                seq,
                scope,
                ref,
                _number(_of(row, "max_concurrent_sessions")),
                _number(_of(row, "max_sessions_per_user")),
                _number(_of(row, "burst")) or 0,
                _number(_of(row, "reserved")) or 0,
                str(_of(row, "reserved_backend") or ""),
            )
        )


def _of(row: object, field: str) -> object:
    return row.get(field) if isinstance(row, dict) else None


def _time(us: int | None) -> datetime | None:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us) if us is not None else None


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


@contextmanager
def _snapshot() -> Iterator[None]:
    with transaction.atomic(durable=True):
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield


def _stream(statement: str) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a statement from a cursor on the server."""
    with connection.chunked_cursor() as cursor:
        cursor.execute(statement)
        while rows := cursor.fetchmany(CHUNK):
            yield from rows
