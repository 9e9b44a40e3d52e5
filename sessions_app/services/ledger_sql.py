"""The ledger's statements: everything that it says to PostgreSQL, in the order in which it says it.

Advisory keys are ``0x766f`` (nobody else's, it is hoped), one digit for the scope, then the id. ``sessions_app.migrations`` has the
same numbers in its triggers, so that an edit of a limit takes the same lock.
"""

from typing import Final

from sessions_app.selectors.world import ASKING_TENANTS, LOCKED_TENANTS, WAITER_AND_USER

TENANT_KEY: Final = 0x766F_1 << 44
BACKEND_KEY: Final = 0x766F_2 << 44
PLATFORM_KEY: Final = 0x766F_3 << 44

# --- first round trip --------------------------------------------------------------------------------------------------
# SET LOCAL, so that a pooled connection (pgbouncer) carries nothing on. The times bound what a frozen process can hold.
SETTINGS: Final = """
SELECT set_config('voice.ledger', 'on', true), set_config('lock_timeout', %s, true), set_config('statement_timeout', %s, true),
       set_config('idle_in_transaction_session_timeout', %s, true)"""
# Backends that have room, or may have it when this batch is done. Who waits for others fits nowhere, and must not be in the way of
# who does: only so many are looked at.
_ROOMY: Final = """roomy AS MATERIALIZED (
    SELECT b.id, b.name FROM sessions_app_backend b JOIN sessions_app_backendhealth h ON h.backend_id = b.id AND h.status = 'healthy'
    LEFT JOIN sessions_app_capacity k ON k.scope = 'backend' AND k.ref = b.id
    WHERE b.enabled AND NOT b.draining AND (b.cap IS NULL OR coalesce(k.active, 0) < b.cap
          OR b.id IN (SELECT backend_id FROM sessions_app_slot WHERE session_id = ANY(%(sessions)s))))"""
_ROOM_FOR_TENANT: Final = """(SELECT array_agg(r.name::text) AS names FROM roomy r
    WHERE NOT EXISTS (SELECT FROM sessions_app_backendaccess a WHERE a.tenant_id = t.id)
       OR EXISTS (SELECT FROM sessions_app_backendaccess a WHERE a.tenant_id = t.id AND a.backend_id = r.id)) AS room"""
_ROOM_FOR_WAITER: Final = "(t.status <> 'active' OR (w.backend_name = '' AND room.names IS NOT NULL) OR w.backend_name = ANY(room.names))"
# Whose waiters come first, by their rows as they are before the locks: who is locked is a guess, who is promoted is not.
_FIRST_IN_QUEUE: Final = f"""
WITH {_ROOMY}
SELECT c.ref AS id FROM sessions_app_capacity c JOIN tenants_quota q ON q.tenant_id = c.ref JOIN tenants_tenant t ON t.id = c.ref
CROSS JOIN LATERAL {_ROOM_FOR_TENANT}
CROSS JOIN LATERAL (SELECT since FROM sessions_app_waiter w WHERE w.tenant_id = c.ref AND w.absent_until IS NULL AND {_ROOM_FOR_WAITER}
                    ORDER BY since, place LIMIT 1) AS first
WHERE %(promote)s AND (room.names IS NOT NULL OR t.status <> 'active')
  AND c.scope = 'tenant' AND c.queued > 0 AND (q.max_concurrent_sessions IS NULL
      OR c.active < q.max_concurrent_sessions + q.burst OR t.status <> 'active'
      OR EXISTS (SELECT FROM tenants_override o WHERE o.tenant_id = c.ref))
ORDER BY q.priority + floor(extract(epoch FROM clock_timestamp() - first.since) / 30) DESC, c.active::float8 / q.weight, first.since
LIMIT %(queues)s"""  # noqa: S608 - of constants
# One statement that only locks; what is read comes in the next ones, with a snapshot from after the wait.
LOCK_TENANTS: Final = f"""
SELECT set_config('voice.tenants', coalesce(string_agg(id::text, ','), ''), true), array_agg(id), count(taken)
FROM (SELECT id, pg_advisory_xact_lock({TENANT_KEY} + id)::text AS taken FROM (
    SELECT id FROM (
        SELECT unnest(%(tenants)s::bigint[]) AS id
        UNION SELECT id FROM ({_FIRST_IN_QUEUE}) AS waiting
        UNION SELECT tenant_id FROM sessions_app_slot WHERE session_id = ANY(%(sessions)s)
        UNION SELECT tenant_id FROM sessions_app_waiter WHERE session_id = ANY(%(sessions)s)
    ) AS wanted ORDER BY id) AS sorted OFFSET 0) AS locked"""  # noqa: S608 - of constants
# Who asks for slots: new attempts, and who waits now, which somebody may have begun to do while this batch waited for the lock.
ASKING: Final = f"""
SELECT set_config('voice.asking', coalesce(string_agg(id::text, ','), ''), true) FROM {LOCKED_TENANTS} AS t(id)
WHERE id = ANY(%(tenants)s) OR EXISTS (SELECT FROM sessions_app_capacity c WHERE c.scope = 'tenant' AND c.ref = t.id AND c.queued > 0)
"""  # noqa: S608 - of constants
LOCK_BACKENDS: Final = f"""
SELECT id, pg_advisory_xact_lock({BACKEND_KEY} + id) FROM (
    SELECT id FROM sessions_app_backend b WHERE enabled AND EXISTS (
        SELECT FROM unnest(string_to_array(current_setting('voice.asking'), ',')::bigint[]) AS t(id)
        WHERE NOT EXISTS (SELECT FROM sessions_app_backendaccess a WHERE a.tenant_id = t.id)
           OR EXISTS (SELECT FROM sessions_app_backendaccess a WHERE a.tenant_id = t.id AND a.backend_id = b.id))
    UNION SELECT backend_id FROM sessions_app_slot WHERE session_id = ANY(%(sessions)s)
    ORDER BY id) AS wanted"""  # noqa: S608 - of constants
LOCK_PLATFORM: Final = f"SELECT pg_advisory_xact_lock({PLATFORM_KEY})"
# Where the platform has no cap nobody waits here; setting one waits for everybody who decides without it.
LOCK_PLATFORM_SHARED: Final = f"SELECT pg_advisory_xact_lock_shared({PLATFORM_KEY})"
SEQUENCE: Final = "SELECT nextval('voice_ledger_seq'), set_config('voice.now', clock_timestamp()::text, true)::timestamptz"
SESSIONS: Final = """
SELECT s.id, s.state, s.node_id, s.pipeline, s.tenant_id, s.user, b.id, b.name, b.provider, s.transport, s.active_at,
       CASE WHEN s.id = ANY(%(resumed)s) THEN s.metadata END
FROM sessions_app_session s LEFT JOIN sessions_app_backend b ON b.id = s.backend_id WHERE s.id = ANY(%(sessions)s)"""
SLOTS: Final = """
SELECT session_id, tenant_id, backend_id, "user", state, node_id, lease_until, lease_until < clock_timestamp(),
       generation, resume_floor, stale_uses, dropped_at
FROM sessions_app_slot WHERE session_id = ANY(%s)"""
OWN_WAITERS: Final = f"""
SELECT {WAITER_AND_USER}
FROM sessions_app_waiter w JOIN tenants_quota q USING (tenant_id) WHERE w.session_id = ANY(%(sessions)s)"""  # noqa: S608 - of constants
# The first of each tenant that asks, but for those who cannot be let in whatever this batch ends: long lines of them block nobody.
WAITERS: Final = f"""
WITH {_ROOMY}
SELECT {WAITER_AND_USER}
FROM {ASKING_TENANTS} AS asks(id) JOIN tenants_tenant t USING (id) JOIN tenants_quota q ON q.tenant_id = t.id
JOIN sessions_app_capacity c ON c.scope = 'tenant' AND c.ref = t.id AND c.queued > 0
CROSS JOIN LATERAL {_ROOM_FOR_TENANT}
CROSS JOIN LATERAL (
    SELECT * FROM sessions_app_waiter w WHERE w.tenant_id = t.id AND w.absent_until IS NULL AND {_ROOM_FOR_WAITER}
    AND (q.max_sessions_per_user IS NULL OR t.status <> 'active'
         OR EXISTS (SELECT FROM tenants_override o WHERE o.tenant_id = t.id AND o.field = 'max_sessions_per_user')
         OR (SELECT count(*) FROM sessions_app_slot s WHERE s.tenant_id = t.id AND s."user" = w."user"
             AND s.session_id <> ALL(%(sessions)s)) < q.max_sessions_per_user)
    ORDER BY w.since, w.place LIMIT %(waiters)s) AS w"""  # noqa: S608 - of constants

# --- second round trip: set-based, one statement a table ------------------------------------------------------------------
INSERT_SESSIONS: Final = """
INSERT INTO sessions_app_session (id, tenant_id, "user", state, reason, backend_id, pipeline, transport, metadata, node_id, limits,
                                  ended_at, started_at, trace_id, burst, queued_at, attempted_at, detail)
SELECT *, %(now)s, '' FROM unnest(%(id)s::uuid[], %(tenant)s::bigint[], %(user)s::text[], %(state)s::text[], %(reason)s::text[],
    %(backend)s::bigint[], %(pipeline)s::text[], %(transport)s::text[], %(metadata)s::jsonb[], %(node)s::uuid[], %(limits)s::jsonb[],
    %(ended)s::timestamptz[], %(started)s::timestamptz[], %(trace)s::text[],
    %(burst)s::boolean[], %(queued)s::timestamptz[])"""
INSERT_SLOTS: Final = """
INSERT INTO sessions_app_slot (session_id, tenant_id, backend_id, "user", state, node_id, generation, resume_floor, since)
SELECT *, %(now)s FROM unnest(%(id)s::uuid[], %(tenant)s::bigint[], %(backend)s::bigint[], %(user)s::text[], %(state)s::text[],
    %(node)s::uuid[], %(generation)s::int[], %(floor)s::int[])"""
INSERT_WAITERS: Final = """
INSERT INTO sessions_app_waiter (session_id, tenant_id, "user", pipeline, transport, backend_name, node_id, place, since)
SELECT *, %(now)s FROM unnest(%(id)s::uuid[], %(tenant)s::bigint[], %(user)s::text[], %(pipeline)s::text[], %(transport)s::text[],
    %(backend)s::text[], %(node)s::uuid[], %(place)s::bigint[])"""
UPDATE_WAITERS: Final = """
WITH done AS (UPDATE sessions_app_waiter w SET node_id = v.node, absent_until = v.absent, generation = v.generation, resume_floor = v.floor
FROM unnest(%(id)s::uuid[], %(node)s::uuid[], %(absent)s::timestamptz[], %(generation)s::int[], %(floor)s::int[])
    AS v(id, node, absent, generation, floor) WHERE w.session_id = v.id RETURNING 1)
SELECT voice_expect(count(*), %(expected)s) FROM done"""
DELETE_WAITERS: Final = """
WITH done AS (DELETE FROM sessions_app_waiter WHERE session_id = ANY(%(id)s) RETURNING 1)
SELECT voice_expect(count(*), %(expected)s) FROM done"""
# A promoted session: in a statement of its own, so that the many changes of a session's life carry no limits.
PROMOTE_SESSIONS: Final = """
WITH done AS (UPDATE sessions_app_session s SET state = 'starting', reason = '', backend_id = v.backend, pipeline = v.pipeline,
    limits = v.limits, burst = v.burst, node_id = v.node, started_at = %(now)s
FROM unnest(%(id)s::uuid[], %(backend)s::bigint[], %(pipeline)s::text[], %(limits)s::jsonb[], %(burst)s::boolean[], %(node)s::uuid[])
    AS v(id, backend, pipeline, limits, burst, node) WHERE s.id = v.id AND s.state = 'queued' RETURNING 1)
SELECT voice_expect(count(*), %(expected)s) FROM done"""
UPSERT_RATES: Final = """
INSERT INTO sessions_app_ratebucket (tenant_id, "user", tokens, at)
SELECT tenant, name, tokens, to_timestamp(at) FROM unnest(%(tenant)s::bigint[], %(user)s::text[], %(tokens)s::float8[], %(time)s::float8[])
    AS v(tenant, name, tokens, at)
ON CONFLICT (tenant_id, "user") DO UPDATE SET tokens = excluded.tokens, at = excluded.at"""
COUNT_ATTEMPTS: Final = """
INSERT INTO sessions_app_attemptcount AS c (tenant_id, reason, count, second)
SELECT *, date_trunc('second', %(now)s::timestamptz) FROM unnest(%(tenant)s::bigint[], %(reason)s::text[], %(count)s::int[])
ON CONFLICT (second, tenant_id, reason) DO UPDATE SET count = c.count + excluded.count"""
# A compare-and-set that missed a row raises in the database, so that the COMMIT behind it in the pipeline does not happen.
UPDATE_SESSIONS: Final = """
WITH done AS (UPDATE sessions_app_session s SET state = v.new, reason = v.reason, detail = v.detail, node_id = v.node,
    backend_id = v.backend, pipeline = coalesce(nullif(v.pipeline, ''), s.pipeline),
    active_at = CASE WHEN v.activated THEN coalesce(s.active_at, %(now)s) ELSE s.active_at END,
    ended_at = CASE WHEN v.over THEN %(now)s END
FROM unnest(%(id)s::uuid[], %(old)s::text[], %(new)s::text[], %(reason)s::text[], %(detail)s::text[], %(node)s::uuid[],
    %(backend)s::bigint[], %(pipeline)s::text[], %(activated)s::boolean[], %(over)s::boolean[])
    AS v(id, old, new, reason, detail, node, backend, pipeline, activated, over)
WHERE s.id = v.id AND s.state = v.old RETURNING 1)
SELECT voice_expect(count(*), %(expected)s) FROM done"""
UPDATE_SLOTS: Final = """
WITH done AS (UPDATE sessions_app_slot s SET state = v.new, node_id = v.node, backend_id = v.backend, lease_until = v.lease,
    dropped_at = v.dropped, generation = v.generation, resume_floor = v.floor, stale_uses = v.stale
FROM unnest(%(id)s::uuid[], %(old)s::text[], %(new)s::text[], %(node)s::uuid[], %(backend)s::bigint[], %(lease)s::timestamptz[],
    %(dropped)s::timestamptz[], %(generation)s::int[], %(floor)s::int[], %(stale)s::int[])
    AS v(id, old, new, node, backend, lease, dropped, generation, floor, stale)
WHERE s.session_id = v.id AND s.state = v.old RETURNING 1)
SELECT voice_expect(count(*), %(expected)s) FROM done"""
DELETE_SLOTS: Final = """
WITH done AS (DELETE FROM sessions_app_slot WHERE session_id = ANY(%(id)s) RETURNING 1)
SELECT voice_expect(count(*), %(expected)s) FROM done"""
INSERT_EVENTS: Final = """
INSERT INTO sessions_app_sessionevent (session_id, old, new, reason, node_id, actor, detail, tenant_id, backend_id, seq, at)
SELECT *, %(seq)s, %(now)s FROM unnest(%(id)s::uuid[], %(old)s::text[], %(new)s::text[], %(reason)s::text[], %(node)s::uuid[],
    %(actor)s::text[], %(detail)s::jsonb[], %(tenant)s::bigint[], %(backend)s::bigint[])"""
# Apart from the update: PostgreSQL checks a row proposed to ON CONFLICT DO UPDATE before it looks for the conflict, and -1 is refused.
INSERT_CAPACITY: Final = """
INSERT INTO sessions_app_capacity (scope, ref, active)
SELECT *, 0 FROM unnest(%(scope)s::text[], %(ref)s::bigint[]) ON CONFLICT DO NOTHING"""
UPDATE_CAPACITY: Final = """
WITH done AS (UPDATE sessions_app_capacity c SET active = c.active + v.change, queued = c.queued + v.waiting
    FROM unnest(%(scope)s::text[], %(ref)s::bigint[], %(change)s::int[], %(waiting)s::int[]) AS v(scope, ref, change, waiting)
    WHERE c.scope = v.scope AND c.ref = v.ref RETURNING 1)
SELECT voice_expect(count(*), %(expected)s) FROM done"""
