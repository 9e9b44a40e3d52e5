"""The ledger's statements: everything that it says to PostgreSQL, in the order in which it says it.

Advisory keys are ``0x766f`` (nobody else's, it is hoped), one digit for the scope, then the id. ``sessions_app.migrations`` has the
same numbers in its triggers, so that an edit of a limit takes the same lock.
"""

from typing import Final

TENANT_KEY: Final = 0x766F_1 << 44
BACKEND_KEY: Final = 0x766F_2 << 44
PLATFORM_KEY: Final = 0x766F_3 << 44

# --- first round trip --------------------------------------------------------------------------------------------------
# SET LOCAL, so that a pooled connection (pgbouncer) carries nothing on. The times bound what a frozen process can hold.
SETTINGS: Final = """
SELECT set_config('voice.ledger', 'on', true), set_config('lock_timeout', %s, true), set_config('statement_timeout', %s, true),
       set_config('idle_in_transaction_session_timeout', %s, true)"""
# One statement that only locks; what is read comes in the next ones, with a snapshot from after the wait.
LOCK_TENANTS: Final = f"""
SELECT id, pg_advisory_xact_lock({TENANT_KEY} + id) FROM (
    SELECT unnest(%(tenants)s::bigint[]) AS id UNION SELECT tenant_id FROM sessions_app_slot WHERE session_id = ANY(%(sessions)s)
    ORDER BY id) AS wanted"""  # noqa: S608 - of constants
LOCK_BACKENDS: Final = f"""
SELECT id, pg_advisory_xact_lock({BACKEND_KEY} + id) FROM (
    SELECT id FROM sessions_app_backend b WHERE enabled AND EXISTS (
        SELECT FROM unnest(%(tenants)s::bigint[]) AS t(id)
        WHERE NOT EXISTS (SELECT FROM sessions_app_backendaccess a WHERE a.tenant_id = t.id)
           OR EXISTS (SELECT FROM sessions_app_backendaccess a WHERE a.tenant_id = t.id AND a.backend_id = b.id))
    UNION SELECT backend_id FROM sessions_app_slot WHERE session_id = ANY(%(sessions)s)
    ORDER BY id) AS wanted"""  # noqa: S608 - of constants
LOCK_PLATFORM: Final = f"SELECT pg_advisory_xact_lock({PLATFORM_KEY})"
# Where the platform has no cap nobody waits here; setting one waits for everybody who decides without it.
LOCK_PLATFORM_SHARED: Final = f"SELECT pg_advisory_xact_lock_shared({PLATFORM_KEY})"
SEQUENCE: Final = "SELECT nextval('voice_ledger_seq'), clock_timestamp()"
SESSIONS: Final = """
SELECT s.id, s.state, s.node_id, s.pipeline, s.tenant_id, s.user, b.id, b.name, b.provider, s.transport, s.active_at,
       CASE WHEN s.id = ANY(%(resumed)s) THEN s.metadata END
FROM sessions_app_session s LEFT JOIN sessions_app_backend b ON b.id = s.backend_id WHERE s.id = ANY(%(sessions)s)"""
SLOTS: Final = """
SELECT session_id, tenant_id, backend_id, "user", state, node_id, lease_until, lease_until < clock_timestamp(),
       generation, resume_floor, stale_uses, dropped_at
FROM sessions_app_slot WHERE session_id = ANY(%s)"""
TENANTS: Final = """
SELECT t.id, t.status, q.max_concurrent_sessions, q.max_sessions_per_user, q.max_duration_s, q.idle_timeout_s, q.grace_s,
       coalesce(c.active, 0), c.id IS NOT NULL, ARRAY(SELECT backend_id FROM sessions_app_backendaccess a WHERE a.tenant_id = t.id)
FROM tenants_tenant t JOIN tenants_quota q ON q.tenant_id = t.id
LEFT JOIN sessions_app_capacity c ON c.scope = 'tenant' AND c.ref = t.id
WHERE t.id = ANY(%(tenants)s) OR t.id IN (SELECT tenant_id FROM sessions_app_slot WHERE session_id = ANY(%(sessions)s))"""
BACKENDS: Final = """
SELECT b.id, b.name, b.provider, b.cap, b.weight, b.enabled, b.draining, b.pipelines, b.transports, coalesce(c.active, 0), c.id IS NOT NULL,
       coalesce(h.status = 'healthy' AND h.last_probe_at > clock_timestamp() - make_interval(secs => %s), false)
FROM sessions_app_backend b LEFT JOIN sessions_app_backendhealth h ON h.backend_id = b.id
LEFT JOIN sessions_app_capacity c ON c.scope = 'backend' AND c.ref = b.id"""
PLATFORM: Final = """
SELECT (SELECT max_concurrent_sessions FROM sessions_app_platform),
       (SELECT coalesce(sum(active), 0)::bigint FROM sessions_app_capacity WHERE scope = 'backend')"""
USERS: Final = """
SELECT s.tenant_id, s."user", count(*) FROM sessions_app_slot s
JOIN (SELECT DISTINCT * FROM unnest(%s::bigint[], %s::text[])) AS asked(tenant_id, "user") USING (tenant_id, "user") GROUP BY 1, 2"""

# --- second round trip: set-based, one statement a table ------------------------------------------------------------------
INSERT_SESSIONS: Final = """
INSERT INTO sessions_app_session (id, tenant_id, "user", state, reason, backend_id, pipeline, transport, metadata, node_id, limits,
                                  ended_at, started_at, trace_id, attempted_at, detail)
SELECT *, %(now)s, '' FROM unnest(%(id)s::uuid[], %(tenant)s::bigint[], %(user)s::text[], %(state)s::text[], %(reason)s::text[],
    %(backend)s::bigint[], %(pipeline)s::text[], %(transport)s::text[], %(metadata)s::jsonb[], %(node)s::uuid[], %(limits)s::jsonb[],
    %(ended)s::timestamptz[], %(started)s::timestamptz[], %(trace)s::text[])"""
INSERT_SLOTS: Final = """
INSERT INTO sessions_app_slot (session_id, tenant_id, backend_id, "user", state, node_id, since)
SELECT *, %(now)s FROM unnest(%(id)s::uuid[], %(tenant)s::bigint[], %(backend)s::bigint[], %(user)s::text[], %(state)s::text[],
    %(node)s::uuid[])"""
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
WITH done AS (UPDATE sessions_app_capacity c SET active = c.active + v.change
    FROM unnest(%(scope)s::text[], %(ref)s::bigint[], %(change)s::int[]) AS v(scope, ref, change)
    WHERE c.scope = v.scope AND c.ref = v.ref RETURNING 1)
SELECT voice_expect(count(*), %(expected)s) FROM done"""
