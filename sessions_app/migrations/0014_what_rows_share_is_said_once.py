"""A batch says once what its new sessions share, and reads no rate that is not in force.

Most of what a rush of attempts writes is the same in every row: tenant, state, backend, node. ``voice_write`` takes each such value alone, and
limit vectors as one array of JSON; it takes both as before, too, so that processes of the version before go on while they are being replaced.
``voice_world`` looks for the buckets of users only where their rate has a limit, and for overrides where there are some.

No bitmaps any more: they leave the index entries of dead rows as they are, and of slots, which come and go, there are soon more of these than
a batch can read.
"""

from django.db import migrations

KEPT = (
    "SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off SET enable_mergejoin = off SET jit = off"
)
WRITING = f"{KEPT} SET enable_nestloop = off"  # as in 0010, but for bitmaps
OPEN = """
ALTER FUNCTION voice_open(bigint[], uuid[], uuid[], uuid[], bigint[], text[], boolean, integer, integer, boolean, boolean, float8)
    SET enable_bitmapscan = off;
"""

WORLD = """
CREATE OR REPLACE FUNCTION voice_world(at timestamptz, probe_stale_s float8, tenants bigint[], user_tenants bigint[], users text[])
RETURNS json LANGUAGE plpgsql AS $$
DECLARE
    rated constant bigint[] := ARRAY(SELECT tenant_id FROM tenants_quota WHERE tenant_id = ANY(tenants) AND user_sessions_per_minute IS NOT NULL);
BEGIN
    RETURN json_build_object(
        'tenants', (SELECT json_agg(json_build_array(t.id, t.status, q.max_concurrent_sessions, q.max_sessions_per_user, q.max_duration_s,
                q.idle_timeout_s, q.grace_s, coalesce(c.active, 0), c.id IS NOT NULL,
                ARRAY(SELECT backend_id FROM sessions_app_backendaccess a WHERE a.tenant_id = t.id), q.burst, q.sessions_per_minute,
                q.user_sessions_per_minute, q.priority, q.weight, q.max_queue_length, q.max_queue_wait_s, coalesce(c.queued, 0),
                CASE WHEN EXISTS (SELECT FROM tenants_override o WHERE o.tenant_id = t.id) THEN (SELECT json_object_agg(o.field, o.change) FROM (
                    SELECT o.field, sum(o.change) AS change FROM tenants_override o
                    WHERE o.tenant_id = t.id AND o.ends_at > at AND o.starts_at <= at GROUP BY o.field) AS o) END))
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
            LEFT JOIN LATERAL (SELECT * FROM sessions_app_ratebucket r WHERE r.tenant_id = a.tenant_id AND r."user" = a.name
                AND (a.name = '' OR a.tenant_id = ANY(rated)) OFFSET 0) AS r ON true
            WHERE live.count > 0 OR r.tenant_id IS NOT NULL),
        -- The slots of a tenant on the backend where it reserved some; whoever holds that backend's lock sees them stand still.
        'reservations', (SELECT json_agg(json_build_array(q.tenant_id, place.id, q.reserved,
                (SELECT count(*) FROM sessions_app_slot s WHERE s.tenant_id = q.tenant_id AND s.backend_id = place.id)))
            FROM tenants_quota q CROSS JOIN LATERAL (SELECT voice_reserved_on(q.tenant_id, q.reserved_backend) AS id) AS place
            WHERE q.reserved > 0 AND place.id IS NOT NULL));
END $$;
"""

WRITE = f"""
CREATE OR REPLACE FUNCTION voice_write(at timestamptz, seq bigint, ended text[], sessions text[], promoted text[], waiters_left text[], changes text[],
                            slot_changes text[], waiter_changes text[], events text[], ended_late text[], rates text[], attempts text[], counters text[])
RETURNS void LANGUAGE plpgsql {WRITING} AS $$
#variable_conflict use_column
DECLARE
    done bigint;
    now constant timestamptz := at;
    number constant bigint := seq;
    ids uuid[];
BEGIN
    IF ended IS NOT NULL THEN
        PERFORM voice_end(number, now, ended);
    END IF;
    IF sessions IS NOT NULL THEN
        DECLARE
            shared constant text[] := sessions[17];
            of_tenant constant bigint := shared[2];
            in_state constant text := shared[4];
            of_reason constant text := shared[5];
            on_backend constant bigint := shared[6];
            of_pipeline constant text := shared[7];
            over_transport constant text := shared[8];
            with_metadata constant jsonb := shared[9];
            at_node constant uuid := shared[10];
            of_trace constant text := shared[12];
            by_burst constant boolean := shared[13];
            as_told constant jsonb := shared[16];
            limits_of_each constant jsonb[] := CASE WHEN sessions[11] ^@ '[' THEN ARRAY(SELECT jsonb_array_elements(sessions[11]::jsonb))
                                                    ELSE sessions[11]::jsonb[] END;
        BEGIN
            -- A new record comes with its first event, and with the slot or the place that it got. Why it waits is told by the event alone:
            -- a reason in the record is why it came to its state, or its end.
            WITH v AS MATERIALIZED (
                SELECT id, coalesce(tenant, of_tenant) AS tenant, "user", coalesce(state, in_state) AS state, coalesce(reason, of_reason) AS reason,
                    coalesce(backend, on_backend) AS backend, coalesce(pipeline, of_pipeline) AS pipeline,
                    coalesce(transport, over_transport) AS transport, coalesce(metadata, with_metadata) AS metadata,
                    coalesce(node, at_node) AS node, limits, coalesce(trace, of_trace) AS trace, coalesce(burst, by_burst) AS burst,
                    coalesce(told, as_told, '{{}}') AS told
                FROM unnest(sessions[1]::uuid[], sessions[2]::bigint[], sessions[3]::text[], sessions[4]::text[], sessions[5]::text[],
                    sessions[6]::bigint[], sessions[7]::text[], sessions[8]::text[], sessions[9]::jsonb[], sessions[10]::uuid[],
                    limits_of_each, sessions[12]::text[], sessions[13]::boolean[], sessions[16]::jsonb[])
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
            SELECT id, '', state, reason, node, '', told, tenant, backend, number, now FROM v;
            -- By itself: to open that table costs every batch, and few have somebody who waits.
            IF in_state = 'queued' OR 'queued' = ANY(sessions[4]::text[]) THEN
                INSERT INTO sessions_app_waiter (session_id, tenant_id, "user", pipeline, transport, backend_name, node_id, place, since)
                SELECT id, coalesce(tenant, of_tenant), "user", coalesce(pipeline, of_pipeline), coalesce(transport, over_transport),
                    coalesce(wanted, shared[15]), coalesce(node, at_node), place, now
                FROM unnest(sessions[1]::uuid[], sessions[2]::bigint[], sessions[3]::text[], sessions[7]::text[], sessions[8]::text[],
                    sessions[10]::uuid[], sessions[14]::bigint[], sessions[15]::text[])
                    AS r(id, tenant, "user", pipeline, transport, node, place, wanted)
                WHERE place IS NOT NULL;
            END IF;
        END;
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
    IF ended_late IS NOT NULL THEN
        PERFORM voice_end(number, now, ended_late);
    END IF;
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


class Migration(migrations.Migration):
    dependencies = [("sessions_app", "0013_ends_in_one_round_trip")]
    operations = [
        migrations.RunSQL(OPEN, migrations.RunSQL.noop),
        migrations.RunSQL(WORLD, migrations.RunSQL.noop),
        migrations.RunSQL(WRITE, migrations.RunSQL.noop),
    ]
