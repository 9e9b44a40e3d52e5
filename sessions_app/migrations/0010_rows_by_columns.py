"""A batch costs less: rows come and go as arrays, an end is one statement, and fewer indexes are written.

Rows to be written are arrays by column, since JSON took PostgreSQL twice as long to read, and what a batch asks for are plain arguments. The
end of a session changes its record, frees its slot and appends its event in one statement. A session's record has room for one more version
of itself on its page even where a whole page ends at once, so that no end writes an index. Events are found by session and by sequence number;
nothing looks for one by its id alone. Nothing was ever looked up by ``attempted_at``: history is read in the order of ids, which are of the
same time.

The functions of 0007 that these replace have other arguments, and stay for processes that still call them while they are being replaced.
"""

from django.db import migrations

# Plans are made once and kept, by statistics of tables that may have been empty or small then, and a join of a few ids with such a table would
# read all of it. So rows are looked for by a list of keys, or one by one in a subquery that cannot be turned around (``OFFSET 0``), and
# where no order is wanted that another index would give.
KEPT = "SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_mergejoin = off SET jit = off"
READING = f"{KEPT} SET enable_hashjoin = off"
WRITING = f"{KEPT} SET enable_nestloop = off"  # what was found by its keys is joined with what is to be written by a hash of these

OPEN = f"""
-- Limits in force, counters, health, reservations and rates, for these tenants and their users; with or without locks. An empty user's rate is
-- its tenant's own. One statement, since each costs more to begin than to run.
CREATE FUNCTION voice_world(at timestamptz, probe_stale_s float8, tenants bigint[], user_tenants bigint[], users text[])
RETURNS json LANGUAGE plpgsql AS $$
BEGIN
    RETURN json_build_object(
        'tenants', (SELECT json_agg(json_build_array(t.id, t.status, q.max_concurrent_sessions, q.max_sessions_per_user, q.max_duration_s,
                q.idle_timeout_s, q.grace_s, coalesce(c.active, 0), c.id IS NOT NULL,
                ARRAY(SELECT backend_id FROM sessions_app_backendaccess a WHERE a.tenant_id = t.id), q.burst, q.sessions_per_minute,
                q.user_sessions_per_minute, q.priority, q.weight, q.max_queue_length, q.max_queue_wait_s, coalesce(c.queued, 0),
                (SELECT json_object_agg(o.field, o.change) FROM (
                    SELECT o.field, sum(o.change) AS change FROM tenants_override o
                    WHERE o.tenant_id = t.id AND o.ends_at > at AND o.starts_at <= at GROUP BY o.field) AS o)))
            FROM tenants_tenant t CROSS JOIN LATERAL (SELECT * FROM tenants_quota q WHERE q.tenant_id = t.id OFFSET 0) AS q
            LEFT JOIN LATERAL (SELECT * FROM sessions_app_capacity c WHERE c.scope = 'tenant' AND c.ref = t.id OFFSET 0) AS c ON true
            WHERE t.id = ANY(tenants)),
        'backends', (SELECT json_agg(json_build_array(b.id, b.name, b.provider, b.cap, b.weight, b.enabled, b.draining, b.pipelines,
                b.transports, coalesce(c.active, 0), c.id IS NOT NULL,
                coalesce(h.status = 'healthy' AND h.last_probe_at > clock_timestamp() - make_interval(secs => probe_stale_s), false),
                b.burst_below))
            FROM sessions_app_backend b LEFT JOIN sessions_app_backendhealth h ON h.backend_id = b.id
            LEFT JOIN sessions_app_capacity c ON c.scope = 'backend' AND c.ref = b.id),
        'platform', json_build_array((SELECT max_concurrent_sessions FROM sessions_app_platform),
            (SELECT coalesce(sum(active), 0) FROM sessions_app_capacity WHERE scope = 'backend')),
        'asking', (SELECT json_agg(json_build_array(a.tenant_id, a.name, live.count, r.tokens, extract(epoch FROM r.at)::float8))
            FROM unnest(user_tenants, users) AS a(tenant_id, name)
            CROSS JOIN LATERAL (SELECT count(*) FROM sessions_app_slot s WHERE s.tenant_id = a.tenant_id AND s."user" = a.name) AS live
            LEFT JOIN LATERAL (SELECT * FROM sessions_app_ratebucket r WHERE r.tenant_id = a.tenant_id AND r."user" = a.name OFFSET 0) AS r ON true
            WHERE live.count > 0 OR r.tenant_id IS NOT NULL),
        -- The slots of a tenant on the backend where it reserved some; whoever holds that backend's lock sees them stand still.
        'reservations', (SELECT json_agg(json_build_array(q.tenant_id, place.id, q.reserved,
                (SELECT count(*) FROM sessions_app_slot s WHERE s.tenant_id = q.tenant_id AND s.backend_id = place.id)))
            FROM tenants_quota q CROSS JOIN LATERAL (SELECT voice_reserved_on(q.tenant_id, q.reserved_backend) AS id) AS place
            WHERE q.reserved > 0 AND place.id IS NOT NULL));
END $$;

-- The first round trip of a batch: takes every lock of it, in the one order (tenants, backends, platform), and reads what it is decided by.
-- Each statement here has a snapshot of its own, so that what is read after a lock is what its last holder left. Of slots, ``whole`` is
-- whether more is wanted than what an end needs.
CREATE FUNCTION voice_open(tenants bigint[], sessions uuid[], known uuid[], resumed uuid[], user_tenants bigint[], users text[], promote boolean,
                           queues integer, waiters integer, capped boolean, whole boolean, probe_stale_s float8)
RETURNS json LANGUAGE plpgsql {READING} AS $$
DECLARE
    seq bigint;
    at timestamptz;
    locked bigint[];
    asking bigint[] := tenants;
    backends bigint[];
    waiting boolean;
    found json;
    slots json;
    leases json;
    own json;
    first json;
BEGIN
    locked := tenants;
    IF promote AND EXISTS (SELECT FROM sessions_app_capacity WHERE scope = 'tenant' AND queued > 0) THEN
        locked := locked || voice_first_in_queue(sessions, queues);
    END IF;
    locked := ARRAY(SELECT DISTINCT id FROM unnest(locked
        || ARRAY(SELECT tenant_id FROM sessions_app_slot WHERE session_id = ANY(sessions))
        || ARRAY(SELECT tenant_id FROM sessions_app_waiter WHERE session_id = ANY(sessions))) AS id ORDER BY id);
    PERFORM pg_advisory_xact_lock((x'766f1'::bigint << 44) + id) FROM unnest(locked) AS id;
    -- Who asks for slots: new attempts, and who waits now, which somebody may have begun to do while this batch waited for the lock.
    waiting := EXISTS (SELECT FROM sessions_app_capacity c WHERE c.scope = 'tenant' AND c.queued > 0);
    IF waiting THEN
        asking := ARRAY(SELECT t.id FROM unnest(locked) AS t(id) WHERE t.id = ANY(tenants)
            OR EXISTS (SELECT FROM sessions_app_capacity c WHERE c.scope = 'tenant' AND c.ref = t.id AND c.queued > 0));
    END IF;
    backends := ARRAY(SELECT DISTINCT id FROM unnest(ARRAY(SELECT backend_id FROM sessions_app_slot WHERE session_id = ANY(sessions))
        || ARRAY(SELECT id FROM sessions_app_backend b WHERE enabled AND EXISTS (
            SELECT FROM unnest(asking) AS t(id)
            WHERE NOT EXISTS (SELECT FROM sessions_app_backendaccess a WHERE a.tenant_id = t.id)
               OR EXISTS (SELECT FROM sessions_app_backendaccess a WHERE a.tenant_id = t.id AND a.backend_id = b.id)))) AS id ORDER BY id);
    PERFORM pg_advisory_xact_lock((x'766f2'::bigint << 44) + id) FROM unnest(backends) AS id;
    IF capped THEN
        PERFORM pg_advisory_xact_lock(x'766f3'::bigint << 44);
    ELSE
        -- Where the platform has no cap nobody waits here; setting one waits for everybody who decides without it.
        PERFORM pg_advisory_xact_lock_shared(x'766f3'::bigint << 44);
    END IF;
    seq := nextval('voice_ledger_seq');
    at := clock_timestamp();
    -- By columns: a list is made faster of values of one type.
    IF EXISTS (SELECT FROM sessions_app_session WHERE id = ANY(known)) THEN
        found := (SELECT json_build_array(array_agg(s.id), array_agg(s.state), array_agg(s.node_id), array_agg(s.pipeline),
                array_agg(s.tenant_id), array_agg(s."user"), array_agg(s.backend_id), array_agg(s.transport), array_agg(s.active_at),
                array_agg(CASE WHEN s.id = ANY(resumed) THEN s.metadata END))
            FROM sessions_app_session s WHERE s.id = ANY(known));
    END IF;
    IF whole THEN
        SELECT json_build_array(array_agg(s.session_id), array_agg(s.tenant_id), array_agg(s.backend_id), array_agg(s."user"),
                array_agg(s.state), array_agg(s.node_id)),
            json_build_array(array_agg(s.lease_until), array_agg(coalesce(s.lease_until < at, false)), array_agg(s.generation),
                array_agg(s.resume_floor), array_agg(s.stale_uses), array_agg(s.dropped_at))
            INTO slots, leases FROM sessions_app_slot s WHERE s.session_id = ANY(sessions);
    ELSIF found IS NOT NULL OR cardinality(sessions) > cardinality(known) THEN
        slots := (SELECT json_build_array(array_agg(s.session_id), array_agg(s.tenant_id), array_agg(s.backend_id), array_agg(s."user"),
                array_agg(s.state), array_agg(s.node_id))
            FROM sessions_app_slot s WHERE s.session_id = ANY(sessions));
    END IF;
    IF waiting THEN
        own := (SELECT json_agg(voice_waiter(w, q.max_sessions_per_user))
            FROM sessions_app_waiter w CROSS JOIN LATERAL (SELECT * FROM tenants_quota q WHERE q.tenant_id = w.tenant_id OFFSET 0) AS q
            WHERE w.session_id = ANY(sessions));
        IF promote THEN
            first := voice_first_waiters(asking, sessions, waiters);
        END IF;
    END IF;
    RETURN json_build_object('seq', seq, 'now', at, 'locked', locked, 'usable', backends, 'known', found, 'slots', slots, 'leases', leases,
        'own', own, 'first', first, 'world', voice_world(at, probe_stale_s, locked, user_tenants, users));
END $$;
"""

WRITE = f"""
-- The end of sessions that hold a slot, in the columns of their rows.
CREATE FUNCTION voice_end(seq bigint, at timestamptz, ended text[]) RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    now constant timestamptz := at;
    number constant bigint := seq;
    ids constant uuid[] := ended[1];
    done bigint;
    freed bigint;
BEGIN
    IF ids IS NULL THEN
        RETURN;
    END IF;
    WITH v AS MATERIALIZED (
        SELECT * FROM unnest(ids, ended[2]::text[], ended[3]::text[], ended[4]::text[], ended[5]::text[], ended[6]::text[], ended[7]::uuid[],
            ended[8]::text[], ended[9]::jsonb[], ended[10]::bigint[], ended[11]::bigint[], ended[12]::text[], ended[13]::boolean[])
        AS r(id, loaded, old, new, reason, detail, node, actor, told, tenant, backend, pipeline, activated)),
    recorded AS (
        UPDATE sessions_app_session s SET state = v.new, reason = v.reason, detail = v.detail, node_id = v.node, backend_id = v.backend,
            pipeline = coalesce(nullif(v.pipeline, ''), s.pipeline), ended_at = now,
            active_at = CASE WHEN v.activated THEN coalesce(s.active_at, now) ELSE s.active_at END
        FROM v WHERE s.id = ANY(ids) AND s.id = v.id AND s.state = v.loaded RETURNING 1),
    slots AS (DELETE FROM sessions_app_slot WHERE session_id = ANY(ids) RETURNING 1),
    told AS (
        INSERT INTO sessions_app_sessionevent (session_id, old, new, reason, node_id, actor, detail, tenant_id, backend_id, seq, at)
        SELECT id, old, new, reason, node, actor, coalesce(told, '{{}}'), tenant, backend, number, now FROM v)
    SELECT (SELECT count(*) FROM recorded), (SELECT count(*) FROM slots) INTO done, freed;
    PERFORM voice_expect(least(done, freed), cardinality(ids));
END $$;

-- Rows for the second round trip of a batch: of each kind null, or an array with one array, as text, for each column. A compare-and-set
-- that misses a row raises. What a batch frees comes before what it gives, but for those of whom it has other events before their end.
CREATE FUNCTION voice_write(at timestamptz, seq bigint, ended text[], sessions text[], promoted text[], waiters_left text[], changes text[],
                            slot_changes text[], waiter_changes text[], events text[], ended_late text[], rates text[], attempts text[], counters text[])
RETURNS void LANGUAGE plpgsql {WRITING} AS $$
#variable_conflict use_column
DECLARE
    done bigint;
    now constant timestamptz := at;
    number constant bigint := seq;
    ids uuid[];
BEGIN
    PERFORM voice_end(number, now, ended);
    IF sessions IS NOT NULL THEN
        -- A new record comes with its first event, and with the slot or the place that it got. Why it waits is told by the event alone:
        -- a reason in the record is why it came to its state, or its end.
        WITH v AS MATERIALIZED (
            SELECT * FROM unnest(sessions[1]::uuid[], sessions[2]::bigint[], sessions[3]::text[], sessions[4]::text[], sessions[5]::text[],
                sessions[6]::bigint[], sessions[7]::text[], sessions[8]::text[], sessions[9]::jsonb[], sessions[10]::uuid[],
                sessions[11]::jsonb[], sessions[12]::text[], sessions[13]::boolean[], sessions[16]::jsonb[])
            AS r(id, tenant, "user", state, reason, backend, pipeline, transport, metadata, node, limits, trace, burst, told)),
        recorded AS (
            INSERT INTO sessions_app_session (id, tenant_id, "user", state, reason, detail, backend_id, pipeline, transport, metadata, node_id,
                limits, burst, attempted_at, queued_at, started_at, ended_at, trace_id)
            SELECT id, tenant, "user", state, CASE state WHEN 'queued' THEN '' ELSE reason END, '', backend, pipeline, transport, metadata, node,
                limits, burst, now, CASE state WHEN 'queued' THEN now END, CASE state WHEN 'starting' THEN now END,
                CASE state WHEN 'rejected' THEN now END, trace FROM v),
        slots AS (
            INSERT INTO sessions_app_slot (session_id, tenant_id, backend_id, "user", state, node_id, generation, resume_floor, since)
            SELECT id, tenant, backend, "user", state, node, 1, 1, now FROM v WHERE state = 'starting')
        INSERT INTO sessions_app_sessionevent (session_id, old, new, reason, node_id, actor, detail, tenant_id, backend_id, seq, at)
        SELECT id, '', state, reason, node, '', coalesce(told, '{{}}'), tenant, backend, number, now FROM v;
        IF 'queued' = ANY(sessions[4]::text[]) THEN
            INSERT INTO sessions_app_waiter (session_id, tenant_id, "user", pipeline, transport, backend_name, node_id, place, since)
            SELECT id, tenant, "user", pipeline, transport, wanted, node, place, now
            FROM unnest(sessions[1]::uuid[], sessions[2]::bigint[], sessions[3]::text[], sessions[7]::text[], sessions[8]::text[],
                sessions[10]::uuid[], sessions[14]::bigint[], sessions[15]::text[])
                AS v(id, tenant, "user", pipeline, transport, node, place, wanted)
            WHERE place IS NOT NULL;
        END IF;
    END IF;
    IF promoted IS NOT NULL THEN
        ids := promoted[1];
        WITH v AS MATERIALIZED (
            SELECT * FROM unnest(ids, promoted[2]::bigint[], promoted[3]::text[], promoted[4]::bigint[], promoted[5]::text[],
                promoted[6]::jsonb[], promoted[7]::boolean[], promoted[8]::uuid[], promoted[9]::integer[], promoted[10]::integer[])
            AS r(id, tenant, "user", backend, pipeline, limits, burst, node, generation, floor)),
        slots AS (
            INSERT INTO sessions_app_slot (session_id, tenant_id, backend_id, "user", state, node_id, generation, resume_floor, since)
            SELECT id, tenant, backend, "user", 'starting', node, generation, floor, now FROM v)
        UPDATE sessions_app_session s SET state = 'starting', reason = '', backend_id = v.backend, pipeline = v.pipeline,
            limits = v.limits, burst = v.burst, node_id = v.node, started_at = now
        FROM v WHERE s.id = ANY(ids) AND s.id = v.id AND s.state = 'queued';
        GET DIAGNOSTICS done = ROW_COUNT;
        PERFORM voice_expect(done, cardinality(ids));
    END IF;
    IF changes IS NOT NULL THEN
        ids := changes[1];
        UPDATE sessions_app_session s SET state = v.new, reason = v.reason, detail = v.detail, node_id = v.node,
            backend_id = v.backend, pipeline = coalesce(nullif(v.pipeline, ''), s.pipeline),
            active_at = CASE WHEN v.activated THEN coalesce(s.active_at, now) ELSE s.active_at END, ended_at = CASE WHEN v.over THEN now END
        FROM unnest(ids, changes[2]::text[], changes[3]::text[], changes[4]::text[], changes[5]::text[], changes[6]::uuid[],
            changes[7]::bigint[], changes[8]::text[], changes[9]::boolean[], changes[10]::boolean[])
            AS v(id, old, new, reason, detail, node, backend, pipeline, activated, over)
        WHERE s.id = ANY(ids) AND s.id = v.id AND s.state = v.old;
        GET DIAGNOSTICS done = ROW_COUNT;
        PERFORM voice_expect(done, cardinality(ids));
    END IF;
    IF slot_changes IS NOT NULL THEN
        ids := slot_changes[1];
        UPDATE sessions_app_slot s SET state = v.new, node_id = v.node, backend_id = v.backend, lease_until = v.lease,
            dropped_at = v.dropped, generation = v.generation, resume_floor = v.floor, stale_uses = v.stale
        FROM unnest(ids, slot_changes[2]::text[], slot_changes[3]::text[], slot_changes[4]::uuid[], slot_changes[5]::bigint[],
            slot_changes[6]::timestamptz[], slot_changes[7]::timestamptz[], slot_changes[8]::integer[], slot_changes[9]::integer[],
            slot_changes[10]::integer[])
            AS v(id, old, new, node, backend, lease, dropped, generation, floor, stale)
        WHERE s.session_id = ANY(ids) AND s.session_id = v.id AND s.state = v.old;
        GET DIAGNOSTICS done = ROW_COUNT;
        PERFORM voice_expect(done, cardinality(ids));
    END IF;
    IF waiter_changes IS NOT NULL THEN
        ids := waiter_changes[1];
        UPDATE sessions_app_waiter w SET node_id = v.node, absent_until = v.absent, generation = v.generation, resume_floor = v.floor
        FROM unnest(ids, waiter_changes[2]::uuid[], waiter_changes[3]::timestamptz[], waiter_changes[4]::integer[],
            waiter_changes[5]::integer[]) AS v(id, node, absent, generation, floor)
        WHERE w.session_id = ANY(ids) AND w.session_id = v.id;
        GET DIAGNOSTICS done = ROW_COUNT;
        PERFORM voice_expect(done, cardinality(ids));
    END IF;
    IF waiters_left IS NOT NULL THEN
        ids := waiters_left[1];
        DELETE FROM sessions_app_waiter WHERE session_id = ANY(ids);
        GET DIAGNOSTICS done = ROW_COUNT;
        PERFORM voice_expect(done, cardinality(ids));
    END IF;
    IF events IS NOT NULL THEN
        INSERT INTO sessions_app_sessionevent (session_id, old, new, reason, node_id, actor, detail, tenant_id, backend_id, seq, at)
        SELECT id, old, new, reason, node, actor, detail, tenant, backend, number, now
        FROM unnest(events[1]::uuid[], events[2]::text[], events[3]::text[], events[4]::text[], events[5]::uuid[], events[6]::text[],
            events[7]::jsonb[], events[8]::bigint[], events[9]::bigint[]) AS v(id, old, new, reason, node, actor, detail, tenant, backend);
    END IF;
    PERFORM voice_end(number, now, ended_late);
    IF rates IS NOT NULL THEN
        INSERT INTO sessions_app_ratebucket (tenant_id, "user", tokens, at)
        SELECT tenant, "user", tokens, to_timestamp("time")
        FROM unnest(rates[1]::bigint[], rates[2]::text[], rates[3]::float8[], rates[4]::float8[]) AS v(tenant, "user", tokens, "time")
        ON CONFLICT (tenant_id, "user") DO UPDATE SET tokens = excluded.tokens, at = excluded.at;
    END IF;
    IF attempts IS NOT NULL THEN
        INSERT INTO sessions_app_attemptcount AS c (tenant_id, reason, count, second)
        SELECT tenant, reason, count, date_trunc('second', now)
        FROM unnest(attempts[1]::bigint[], attempts[2]::text[], attempts[3]::integer[]) AS v(tenant, reason, count)
        ON CONFLICT (second, tenant_id, reason) DO UPDATE SET count = c.count + excluded.count;
    END IF;
    IF counters IS NOT NULL THEN
        -- Apart from the update: a row proposed to ON CONFLICT DO UPDATE is checked before the conflict is looked for, and -1 is refused.
        IF true = ANY(counters[5]::boolean[]) THEN
            INSERT INTO sessions_app_capacity (scope, ref, active)
            SELECT scope, ref, 0 FROM unnest(counters[1]::text[], counters[2]::bigint[], counters[5]::boolean[]) AS v(scope, ref, new)
            WHERE new ON CONFLICT DO NOTHING;
        END IF;
        UPDATE sessions_app_capacity c SET active = c.active + v.change, queued = c.queued + v.waiting
        FROM unnest(counters[1]::text[], counters[2]::bigint[], counters[3]::integer[], counters[4]::integer[])
            AS v(scope, ref, change, waiting)
        WHERE c.scope = ANY(counters[1]::text[]) AND c.ref = ANY(counters[2]::bigint[]) AND c.scope = v.scope AND c.ref = v.ref;
        GET DIAGNOSTICS done = ROW_COUNT;
        PERFORM voice_expect(done, cardinality(counters[2]::bigint[]));
    END IF;
END $$;
"""

STORAGE = """
ALTER TABLE sessions_app_session SET (fillfactor = 50);
ALTER TABLE sessions_app_sessionevent DROP CONSTRAINT sessions_app_sessionevent_pkey, ADD PRIMARY KEY (session_id, id);
"""
UNDO_STORAGE = """
ALTER TABLE sessions_app_session SET (fillfactor = 70);
ALTER TABLE sessions_app_sessionevent DROP CONSTRAINT sessions_app_sessionevent_pkey, ADD PRIMARY KEY (id);
"""


class Migration(migrations.Migration):
    dependencies = [("sessions_app", "0009_the_queue_by_backend")]
    operations = [
        migrations.RemoveIndex(model_name="session", name="history_by_time"),
        migrations.RemoveIndex(model_name="sessionevent", name="timeline_of_a_session"),
        migrations.RunSQL(OPEN, migrations.RunSQL.noop),
        migrations.RunSQL(WRITE, migrations.RunSQL.noop),
        migrations.RunSQL(STORAGE, UNDO_STORAGE),
    ]
