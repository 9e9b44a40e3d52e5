"""A batch is written by columns: rows come as arrays, one for each column, since JSON took PostgreSQL twice as long to read.

Nothing was ever looked up by ``attempted_at``: history is read in the order of ids, which are of the same time.
"""

from django.db import migrations

# See 0007.
PLANS = "SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off"

WRITE = f"""
DROP FUNCTION voice_write(timestamptz, bigint, json, json, json, json, json, json, json, json, json, json);

-- Rows for the second round trip of a batch: of each kind null, or an array with one array, as text, for each column. A compare-and-set
-- that misses a row raises.
CREATE FUNCTION voice_write(at timestamptz, seq bigint, sessions text[], promoted text[], waiters_left text[], changes text[],
                            slot_changes text[], waiter_changes text[], events text[], rates text[], attempts text[], counters text[])
RETURNS void LANGUAGE plpgsql {PLANS} AS $$
#variable_conflict use_column
DECLARE
    done bigint;
    now constant timestamptz := at;
    number constant bigint := seq;
    ids uuid[];
    freed uuid[];
BEGIN
    IF sessions IS NOT NULL THEN
        -- A new record comes with its first event, and with the slot or the place that it got. Why it waits is told by the event alone:
        -- a reason in the record is why it came to its state, or its end.
        WITH v AS MATERIALIZED (
            SELECT * FROM unnest(sessions[1]::uuid[], sessions[2]::bigint[], sessions[3]::text[], sessions[4]::text[], sessions[5]::text[],
                sessions[6]::bigint[], sessions[7]::text[], sessions[8]::text[], sessions[9]::jsonb[], sessions[10]::uuid[],
                sessions[11]::jsonb[], sessions[12]::text[], sessions[13]::boolean[], sessions[14]::bigint[], sessions[15]::text[])
            AS r(id, tenant, "user", state, reason, backend, pipeline, transport, metadata, node, limits, trace, burst, place, wanted)),
        recorded AS (
            INSERT INTO sessions_app_session (id, tenant_id, "user", state, reason, detail, backend_id, pipeline, transport, metadata, node_id,
                limits, burst, attempted_at, queued_at, started_at, ended_at, trace_id)
            SELECT id, tenant, "user", state, CASE state WHEN 'queued' THEN '' ELSE reason END, '', backend, pipeline, transport, metadata, node,
                limits, burst, now, CASE state WHEN 'queued' THEN now END, CASE state WHEN 'starting' THEN now END,
                CASE state WHEN 'rejected' THEN now END, trace FROM v),
        slots AS (
            INSERT INTO sessions_app_slot (session_id, tenant_id, backend_id, "user", state, node_id, generation, resume_floor, since)
            SELECT id, tenant, backend, "user", state, node, 1, 1, now FROM v WHERE state = 'starting'),
        places AS (
            INSERT INTO sessions_app_waiter (session_id, tenant_id, "user", pipeline, transport, backend_name, node_id, place, since)
            SELECT id, tenant, "user", pipeline, transport, wanted, node, place, now FROM v WHERE state = 'queued')
        INSERT INTO sessions_app_sessionevent (session_id, old, new, reason, node_id, actor, detail, tenant_id, backend_id, seq, at)
        SELECT id, '', state, reason, node, '', '{{}}', tenant, backend, number, now FROM v;
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
        FROM v WHERE s.id = v.id AND s.state = 'queued';
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
        WHERE s.id = v.id AND s.state = v.old;
        GET DIAGNOSTICS done = ROW_COUNT;
        PERFORM voice_expect(done, cardinality(ids));
        freed := ARRAY(SELECT id FROM unnest(ids, changes[11]::boolean[]) AS v(id, freed) WHERE freed);
        IF cardinality(freed) > 0 THEN
            DELETE FROM sessions_app_slot WHERE session_id = ANY(freed);
            GET DIAGNOSTICS done = ROW_COUNT;
            PERFORM voice_expect(done, cardinality(freed));
        END IF;
    END IF;
    IF slot_changes IS NOT NULL THEN
        ids := slot_changes[1];
        UPDATE sessions_app_slot s SET state = v.new, node_id = v.node, backend_id = v.backend, lease_until = v.lease,
            dropped_at = v.dropped, generation = v.generation, resume_floor = v.floor, stale_uses = v.stale
        FROM unnest(ids, slot_changes[2]::text[], slot_changes[3]::text[], slot_changes[4]::uuid[], slot_changes[5]::bigint[],
            slot_changes[6]::timestamptz[], slot_changes[7]::timestamptz[], slot_changes[8]::integer[], slot_changes[9]::integer[],
            slot_changes[10]::integer[])
            AS v(id, old, new, node, backend, lease, dropped, generation, floor, stale)
        WHERE s.session_id = v.id AND s.state = v.old;
        GET DIAGNOSTICS done = ROW_COUNT;
        PERFORM voice_expect(done, cardinality(ids));
    END IF;
    IF waiter_changes IS NOT NULL THEN
        ids := waiter_changes[1];
        UPDATE sessions_app_waiter w SET node_id = v.node, absent_until = v.absent, generation = v.generation, resume_floor = v.floor
        FROM unnest(ids, waiter_changes[2]::uuid[], waiter_changes[3]::timestamptz[], waiter_changes[4]::integer[],
            waiter_changes[5]::integer[]) AS v(id, node, absent, generation, floor)
        WHERE w.session_id = v.id;
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
        WHERE c.scope = v.scope AND c.ref = v.ref;
        GET DIAGNOSTICS done = ROW_COUNT;
        PERFORM voice_expect(done, cardinality(counters[2]::bigint[]));
    END IF;
END $$;
"""

class Migration(migrations.Migration):
    dependencies = [("sessions_app", "0009_the_queue_by_backend")]
    operations = [
        migrations.RemoveIndex(model_name="session", name="history_by_time"),
        migrations.RunSQL(WRITE, migrations.RunSQL.noop),
    ]
