"""The ledger's two round trips as functions, so that a batch costs a few statements however much it reads and writes.

``voice_open`` locks and reads, ``voice_write`` writes; what is decided between them is decided in Python. ``services.ledger_sql`` has their
contracts. They hold no rule, and change no limit.

Sessions, their events, slots and places no longer have foreign keys in the database: each insert paid for several, and locked the rows that
every other batch wants too. Their only writer holds the locks of what they point to; who deletes a tenant or a backend takes the same lock,
and is refused while a session names it.
"""

import django.db.models.deletion
from django.db import migrations, models

# Plans are made once and kept, also while tables grow from nothing: by index, whatever the size was when they were made.
PLANS = "SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off"

LOCK = """
-- Takes every lock of a batch, in the one order: tenants, backends, platform. Each statement here has a snapshot of its own, so that what is
-- read after a lock is what its last holder left.
CREATE FUNCTION voice_lock(tenants bigint[], sessions uuid[], promote boolean, queues integer, capped boolean,
                           OUT seq bigint, OUT at timestamptz, OUT locked bigint[], OUT asking bigint[], OUT backends bigint[])
LANGUAGE plpgsql AS $$
DECLARE
    one bigint;
BEGIN
    locked := tenants || ARRAY(SELECT tenant_id FROM sessions_app_slot WHERE session_id = ANY(sessions))
                      || ARRAY(SELECT tenant_id FROM sessions_app_waiter WHERE session_id = ANY(sessions));
    IF promote AND EXISTS (SELECT FROM sessions_app_capacity WHERE scope = 'tenant' AND queued > 0) THEN
        locked := locked || voice_first_in_queue(sessions, queues);
    END IF;
    locked := ARRAY(SELECT DISTINCT id FROM unnest(locked) AS id ORDER BY id);
    FOREACH one IN ARRAY locked LOOP
        PERFORM pg_advisory_xact_lock((x'766f1'::bigint << 44) + one);
    END LOOP;
    -- Who asks for slots: new attempts, and who waits now, which somebody may have begun to do while this batch waited for the lock.
    asking := ARRAY(SELECT t.id FROM unnest(locked) AS t(id) WHERE t.id = ANY(tenants)
        OR EXISTS (SELECT FROM sessions_app_capacity c WHERE c.scope = 'tenant' AND c.ref = t.id AND c.queued > 0));
    backends := ARRAY(SELECT id FROM (
        SELECT id FROM sessions_app_backend b WHERE enabled AND EXISTS (
            SELECT FROM unnest(asking) AS t(id)
            WHERE NOT EXISTS (SELECT FROM sessions_app_backendaccess a WHERE a.tenant_id = t.id)
               OR EXISTS (SELECT FROM sessions_app_backendaccess a WHERE a.tenant_id = t.id AND a.backend_id = b.id))
        UNION SELECT backend_id FROM sessions_app_slot WHERE session_id = ANY(sessions)) AS wanted ORDER BY id);
    FOREACH one IN ARRAY backends LOOP
        PERFORM pg_advisory_xact_lock((x'766f2'::bigint << 44) + one);
    END LOOP;
    IF capped THEN
        PERFORM pg_advisory_xact_lock(x'766f3'::bigint << 44);
    ELSE
        -- Where the platform has no cap nobody waits here; setting one waits for everybody who decides without it.
        PERFORM pg_advisory_xact_lock_shared(x'766f3'::bigint << 44);
    END IF;
    seq := nextval('voice_ledger_seq');
    at := clock_timestamp();
END $$;
"""

READ = """
-- Backends that have room, or may have it when a batch that ends these sessions is done. Who waits for others fits nowhere, and must not be
-- in the way of who does: only so many are looked at.
CREATE FUNCTION voice_roomy(sessions uuid[]) RETURNS TABLE (id bigint, name text) LANGUAGE sql STABLE ROWS 10 AS $$
    SELECT b.id, b.name FROM sessions_app_backend b JOIN sessions_app_backendhealth h ON h.backend_id = b.id AND h.status = 'healthy'
    LEFT JOIN sessions_app_capacity k ON k.scope = 'backend' AND k.ref = b.id
    WHERE b.enabled AND NOT b.draining AND (b.cap IS NULL OR coalesce(k.active, 0) < b.cap
          OR b.id IN (SELECT backend_id FROM sessions_app_slot WHERE session_id = ANY(sessions)))
$$;

-- Whose waiters come first, by their rows as they are before the locks: who is locked is a guess, who is promoted is not.
CREATE FUNCTION voice_first_in_queue(sessions uuid[], queues integer) RETURNS bigint[] LANGUAGE plpgsql AS $$
BEGIN
    RETURN ARRAY(
        WITH roomy AS MATERIALIZED (SELECT * FROM voice_roomy(sessions))
        SELECT c.ref FROM sessions_app_capacity c JOIN tenants_quota q ON q.tenant_id = c.ref JOIN tenants_tenant t ON t.id = c.ref
        CROSS JOIN LATERAL (SELECT array_agg(r.name) AS names FROM roomy r
            WHERE NOT EXISTS (SELECT FROM sessions_app_backendaccess a WHERE a.tenant_id = t.id)
               OR EXISTS (SELECT FROM sessions_app_backendaccess a WHERE a.tenant_id = t.id AND a.backend_id = r.id)) AS room
        CROSS JOIN LATERAL (SELECT since FROM sessions_app_waiter w WHERE w.tenant_id = c.ref AND w.absent_until IS NULL
            AND (t.status <> 'active' OR (w.backend_name = '' AND room.names IS NOT NULL) OR w.backend_name = ANY(room.names))
            ORDER BY since, place LIMIT 1) AS first
        WHERE (room.names IS NOT NULL OR t.status <> 'active')
          AND c.scope = 'tenant' AND c.queued > 0 AND (q.max_concurrent_sessions IS NULL
              OR c.active < q.max_concurrent_sessions + q.burst OR t.status <> 'active'
              OR EXISTS (SELECT FROM tenants_override o WHERE o.tenant_id = c.ref))
        ORDER BY q.priority + floor(extract(epoch FROM clock_timestamp() - first.since) / 30) DESC, c.active::float8 / q.weight, first.since
        LIMIT queues);
END $$;

-- A place in the queue as ``selectors.world`` reads it; the number of its user's sessions where that matters.
CREATE FUNCTION voice_waiter(w sessions_app_waiter, user_limit integer) RETURNS json LANGUAGE sql STABLE AS $$
    SELECT json_build_array(w.session_id, w.tenant_id, w."user", w.pipeline, w.transport, w.backend_name, w.node_id, w.since, w.place,
        w.absent_until, w.generation, w.resume_floor, CASE WHEN user_limit IS NOT NULL THEN
            (SELECT count(*) FROM sessions_app_slot s WHERE s.tenant_id = w.tenant_id AND s."user" = w."user") END)
$$;

-- The first of each tenant that asks, but for those who cannot be let in whatever this batch ends: long lines of them block nobody.
CREATE FUNCTION voice_first_waiters(asking bigint[], sessions uuid[], most integer) RETURNS json LANGUAGE plpgsql AS $$
BEGIN
    RETURN (
        WITH roomy AS MATERIALIZED (SELECT * FROM voice_roomy(sessions))
        SELECT json_agg(voice_waiter(found.place, q.max_sessions_per_user) ORDER BY (found.place).since, (found.place).place)
        FROM unnest(asking) AS asks(id) JOIN tenants_tenant t USING (id) JOIN tenants_quota q ON q.tenant_id = t.id
        JOIN sessions_app_capacity c ON c.scope = 'tenant' AND c.ref = t.id AND c.queued > 0
        CROSS JOIN LATERAL (SELECT array_agg(r.name) AS names FROM roomy r
            WHERE NOT EXISTS (SELECT FROM sessions_app_backendaccess a WHERE a.tenant_id = t.id)
               OR EXISTS (SELECT FROM sessions_app_backendaccess a WHERE a.tenant_id = t.id AND a.backend_id = r.id)) AS room
        CROSS JOIN LATERAL (
            SELECT w AS place FROM sessions_app_waiter w WHERE w.tenant_id = t.id AND w.absent_until IS NULL
            AND (t.status <> 'active' OR (w.backend_name = '' AND room.names IS NOT NULL) OR w.backend_name = ANY(room.names))
            AND (q.max_sessions_per_user IS NULL OR t.status <> 'active'
                 OR EXISTS (SELECT FROM tenants_override o WHERE o.tenant_id = t.id AND o.field = 'max_sessions_per_user')
                 OR (SELECT count(*) FROM sessions_app_slot s WHERE s.tenant_id = t.id AND s."user" = w."user"
                     AND s.session_id <> ALL(sessions)) < q.max_sessions_per_user)
            ORDER BY w.since, w.place LIMIT most) AS found);
END $$;

-- Limits in force, counters, health, reservations and rates, for these tenants and their users; with or without locks.
CREATE FUNCTION voice_world(tenants bigint[], user_tenants bigint[], users text[], at timestamptz, probe_stale_s float8)
RETURNS json LANGUAGE plpgsql AS $$
DECLARE
    used json;
    rates json;
    kept json;
BEGIN
    -- What is not there is not looked for: a statement costs more to begin than to run.
    IF cardinality(users) > 0 THEN
        used := (SELECT json_agg(json_build_array(asked.tenant_id, asked.name, used.count))
            FROM (SELECT DISTINCT * FROM unnest(user_tenants, users)) AS asked(tenant_id, name)
            CROSS JOIN LATERAL (SELECT count(*) FROM sessions_app_slot s
                                WHERE s.tenant_id = asked.tenant_id AND s."user" = asked.name) AS used
            WHERE used.count > 0);
        rates := (SELECT json_agg(json_build_array(r.tenant_id, r."user", r.tokens, extract(epoch FROM r.at)::float8))
            FROM (SELECT * FROM unnest(user_tenants, users) UNION SELECT DISTINCT unnest(user_tenants), '') AS asked(tenant_id, name)
            JOIN sessions_app_ratebucket r ON r.tenant_id = asked.tenant_id AND r."user" = asked.name);
    END IF;
    -- The slots of a tenant on the backend where it reserved some; whoever holds that backend's lock sees them stand still.
    IF EXISTS (SELECT FROM tenants_quota WHERE reserved > 0) THEN
        kept := (SELECT json_agg(json_build_array(q.tenant_id, place.id, q.reserved,
                (SELECT count(*) FROM sessions_app_slot s WHERE s.tenant_id = q.tenant_id AND s.backend_id = place.id)))
            FROM tenants_quota q CROSS JOIN LATERAL (SELECT voice_reserved_on(q.tenant_id, q.reserved_backend) AS id) AS place
            WHERE q.reserved > 0 AND place.id IS NOT NULL);
    END IF;
    RETURN json_build_object(
        'tenants', (SELECT json_agg(json_build_array(t.id, t.status, q.max_concurrent_sessions, q.max_sessions_per_user, q.max_duration_s,
                q.idle_timeout_s, q.grace_s, coalesce(c.active, 0), c.id IS NOT NULL,
                ARRAY(SELECT backend_id FROM sessions_app_backendaccess a WHERE a.tenant_id = t.id), q.burst, q.sessions_per_minute,
                q.user_sessions_per_minute, q.priority, q.weight, q.max_queue_length, q.max_queue_wait_s, coalesce(c.queued, 0),
                (SELECT json_object_agg(o.field, o.change) FROM (
                    SELECT o.field, sum(o.change) AS change FROM tenants_override o
                    WHERE o.tenant_id = t.id AND o.ends_at > at AND o.starts_at <= at GROUP BY o.field) AS o)))
            FROM unnest(tenants) AS wanted(id) JOIN tenants_tenant t USING (id) JOIN tenants_quota q ON q.tenant_id = t.id
            LEFT JOIN sessions_app_capacity c ON c.scope = 'tenant' AND c.ref = t.id),
        'backends', (SELECT json_agg(json_build_array(b.id, b.name, b.provider, b.cap, b.weight, b.enabled, b.draining, b.pipelines,
                b.transports, coalesce(c.active, 0), c.id IS NOT NULL,
                coalesce(h.status = 'healthy' AND h.last_probe_at > clock_timestamp() - make_interval(secs => probe_stale_s), false),
                b.burst_below))
            FROM sessions_app_backend b LEFT JOIN sessions_app_backendhealth h ON h.backend_id = b.id
            LEFT JOIN sessions_app_capacity c ON c.scope = 'backend' AND c.ref = b.id),
        'platform', json_build_array((SELECT max_concurrent_sessions FROM sessions_app_platform),
            (SELECT coalesce(sum(active), 0) FROM sessions_app_capacity WHERE scope = 'backend')),
        'users', used, 'rates', rates, 'reservations', kept);
END $$;

-- The first round trip of a batch.
CREATE FUNCTION voice_open(batch json) RETURNS json LANGUAGE plpgsql %(plans)s AS $$
DECLARE
    b record;
    taken record;
    known json;
    own json;
    first json;
BEGIN
    SELECT * INTO b FROM json_to_record(batch) AS r(tenants bigint[], sessions uuid[], known uuid[], resumed uuid[], user_tenants bigint[],
        users text[], promote boolean, queues integer, waiters integer, capped boolean, probe_stale_s float8);
    taken := voice_lock(b.tenants, b.sessions, b.promote, b.queues, b.capped);
    -- By columns: a list is made faster of values of one type.
    IF EXISTS (SELECT FROM unnest(b.known) AS asked(id) JOIN sessions_app_session USING (id)) THEN
        known := (SELECT json_build_array(array_agg(s.id), array_agg(s.state), array_agg(s.node_id), array_agg(s.pipeline),
                array_agg(s.tenant_id), array_agg(s."user"), array_agg(s.backend_id), array_agg(s.transport), array_agg(s.active_at),
                array_agg(CASE WHEN s.id = ANY(b.resumed) THEN s.metadata END))
            FROM unnest(b.known) AS asked(id) JOIN sessions_app_session s USING (id));
    END IF;
    IF EXISTS (SELECT FROM sessions_app_capacity c WHERE c.scope = 'tenant' AND c.queued > 0) THEN
        own := (SELECT json_agg(voice_waiter(w, q.max_sessions_per_user))
            FROM unnest(b.sessions) AS asked(id) JOIN sessions_app_waiter w ON w.session_id = asked.id
            JOIN tenants_quota q ON q.tenant_id = w.tenant_id);
        IF b.promote THEN
            first := voice_first_waiters(taken.asking, b.sessions, b.waiters);
        END IF;
    END IF;
    RETURN json_build_object(
        'seq', taken.seq, 'now', taken.at, 'locked', taken.locked, 'usable', taken.backends, 'known', known,
        'slots', (SELECT json_build_array(array_agg(s.session_id), array_agg(s.tenant_id), array_agg(s.backend_id), array_agg(s."user"),
                array_agg(s.state), array_agg(s.node_id), array_agg(s.lease_until), array_agg(coalesce(s.lease_until < taken.at, false)),
                array_agg(s.generation), array_agg(s.resume_floor), array_agg(s.stale_uses), array_agg(s.dropped_at))
            FROM unnest(b.sessions) AS asked(id) JOIN sessions_app_slot s ON s.session_id = asked.id),
        'own', own, 'first', first,
        'world', voice_world(taken.locked, b.user_tenants, b.users, taken.at, b.probe_stale_s));
END $$;
"""

WRITE = """
-- The second round trip of a batch: each argument is a list of rows, or null. A compare-and-set that misses a row raises.
CREATE FUNCTION voice_write(at timestamptz, seq bigint, sessions json, promoted json, waiters_left json, changes json, slot_changes json,
                            waiter_changes json, events json, rates json, attempts json, counters json)
RETURNS void LANGUAGE plpgsql %(plans)s AS $$
#variable_conflict use_column
DECLARE
    done bigint;
    now constant timestamptz := at;
    number constant bigint := seq;
    freed uuid[];
BEGIN
    IF sessions IS NOT NULL THEN
        -- A new record comes with its first event, and with the slot or the place that it got. Why it waits is told by the event alone:
        -- a reason in the record is why it came to its state, or its end.
        WITH v AS MATERIALIZED (
            SELECT * FROM json_to_recordset(sessions) AS r(id uuid, tenant bigint, "user" text, state text, reason text,
                backend bigint, pipeline text, transport text, metadata jsonb, node uuid, limits jsonb, trace text, burst boolean,
                place bigint, wanted text)),
        recorded AS (
            INSERT INTO sessions_app_session (id, tenant_id, "user", state, reason, detail, backend_id, pipeline, transport, metadata, node_id,
                limits, burst, attempted_at, queued_at, started_at, ended_at, trace_id)
            SELECT id, tenant, "user", state, CASE state WHEN 'queued' THEN '' ELSE reason END, '', backend, pipeline, transport, metadata, node, limits, burst, now,
                CASE state WHEN 'queued' THEN now END, CASE state WHEN 'starting' THEN now END, CASE state WHEN 'rejected' THEN now END,
                trace FROM v),
        slots AS (
            INSERT INTO sessions_app_slot (session_id, tenant_id, backend_id, "user", state, node_id, generation, resume_floor, since)
            SELECT id, tenant, backend, "user", state, node, 1, 1, now FROM v WHERE state = 'starting'),
        places AS (
            INSERT INTO sessions_app_waiter (session_id, tenant_id, "user", pipeline, transport, backend_name, node_id, place, since)
            SELECT id, tenant, "user", pipeline, transport, wanted, node, place, now FROM v WHERE state = 'queued')
        INSERT INTO sessions_app_sessionevent (session_id, old, new, reason, node_id, actor, detail, tenant_id, backend_id, seq, at)
        SELECT id, '', state, reason, node, '', '{}', tenant, backend, number, now FROM v;
    END IF;
    IF promoted IS NOT NULL THEN
        WITH v AS MATERIALIZED (
            SELECT * FROM json_to_recordset(promoted) AS r(id uuid, tenant bigint, "user" text, backend bigint, pipeline text, limits jsonb,
                burst boolean, node uuid, generation integer, floor integer)),
        slots AS (
            INSERT INTO sessions_app_slot (session_id, tenant_id, backend_id, "user", state, node_id, generation, resume_floor, since)
            SELECT id, tenant, backend, "user", 'starting', node, generation, floor, now FROM v)
        UPDATE sessions_app_session s SET state = 'starting', reason = '', backend_id = v.backend, pipeline = v.pipeline,
            limits = v.limits, burst = v.burst, node_id = v.node, started_at = now
        FROM v WHERE s.id = v.id AND s.state = 'queued';
        GET DIAGNOSTICS done = ROW_COUNT;
        PERFORM voice_expect(done, json_array_length(promoted));
    END IF;
    IF changes IS NOT NULL THEN
        UPDATE sessions_app_session s SET state = v.new, reason = v.reason, detail = v.detail, node_id = v.node,
            backend_id = v.backend, pipeline = coalesce(nullif(v.pipeline, ''), s.pipeline),
            active_at = CASE WHEN v.activated THEN coalesce(s.active_at, now) ELSE s.active_at END, ended_at = CASE WHEN v.over THEN now END
        FROM json_to_recordset(changes) AS v(id uuid, old text, new text, reason text, detail text, node uuid, backend bigint, pipeline text,
            activated boolean, over boolean)
        WHERE s.id = v.id AND s.state = v.old;
        GET DIAGNOSTICS done = ROW_COUNT;
        PERFORM voice_expect(done, json_array_length(changes));
        freed := ARRAY(SELECT id FROM json_to_recordset(changes) AS v(id uuid, freed boolean) WHERE freed);
        IF cardinality(freed) > 0 THEN
            DELETE FROM sessions_app_slot WHERE session_id = ANY(freed);
            GET DIAGNOSTICS done = ROW_COUNT;
            PERFORM voice_expect(done, cardinality(freed));
        END IF;
    END IF;
    IF slot_changes IS NOT NULL THEN
        UPDATE sessions_app_slot s SET state = v.new, node_id = v.node, backend_id = v.backend, lease_until = v.lease,
            dropped_at = v.dropped, generation = v.generation, resume_floor = v.floor, stale_uses = v.stale
        FROM json_to_recordset(slot_changes) AS v(id uuid, old text, new text, node uuid, backend bigint, lease timestamptz,
            dropped timestamptz, generation integer, floor integer, stale integer)
        WHERE s.session_id = v.id AND s.state = v.old;
        GET DIAGNOSTICS done = ROW_COUNT;
        PERFORM voice_expect(done, json_array_length(slot_changes));
    END IF;
    IF waiter_changes IS NOT NULL THEN
        UPDATE sessions_app_waiter w SET node_id = v.node, absent_until = v.absent, generation = v.generation, resume_floor = v.floor
        FROM json_to_recordset(waiter_changes) AS v(id uuid, node uuid, absent timestamptz, generation integer, floor integer)
        WHERE w.session_id = v.id;
        GET DIAGNOSTICS done = ROW_COUNT;
        PERFORM voice_expect(done, json_array_length(waiter_changes));
    END IF;
    IF waiters_left IS NOT NULL THEN
        DELETE FROM sessions_app_waiter w USING json_array_elements_text(waiters_left) AS v(id) WHERE w.session_id = v.id::uuid;
        GET DIAGNOSTICS done = ROW_COUNT;
        PERFORM voice_expect(done, json_array_length(waiters_left));
    END IF;
    IF events IS NOT NULL THEN
        INSERT INTO sessions_app_sessionevent (session_id, old, new, reason, node_id, actor, detail, tenant_id, backend_id, seq, at)
        SELECT id, old, new, reason, node, actor, detail, tenant, backend, number, now
        FROM json_to_recordset(events) AS v(id uuid, old text, new text, reason text, node uuid, actor text, detail jsonb, tenant bigint,
            backend bigint);
    END IF;
    IF rates IS NOT NULL THEN
        INSERT INTO sessions_app_ratebucket (tenant_id, "user", tokens, at)
        SELECT tenant, "user", tokens, to_timestamp("time") FROM json_to_recordset(rates)
            AS v(tenant bigint, "user" text, tokens float8, "time" float8)
        ON CONFLICT (tenant_id, "user") DO UPDATE SET tokens = excluded.tokens, at = excluded.at;
    END IF;
    IF attempts IS NOT NULL THEN
        INSERT INTO sessions_app_attemptcount AS c (tenant_id, reason, count, second)
        SELECT tenant, reason, count, date_trunc('second', now) FROM json_to_recordset(attempts)
            AS v(tenant bigint, reason text, count integer)
        ON CONFLICT (second, tenant_id, reason) DO UPDATE SET count = c.count + excluded.count;
    END IF;
    IF counters IS NOT NULL THEN
        -- Apart from the update: a row proposed to ON CONFLICT DO UPDATE is checked before the conflict is looked for, and -1 is refused.
        INSERT INTO sessions_app_capacity (scope, ref, active)
        SELECT scope, ref, 0 FROM json_to_recordset(counters) AS v(scope text, ref bigint, new boolean) WHERE new ON CONFLICT DO NOTHING;
        UPDATE sessions_app_capacity c SET active = c.active + v.change, queued = c.queued + v.waiting
        FROM json_to_recordset(counters) AS v(scope text, ref bigint, change integer, waiting integer)
        WHERE c.scope = v.scope AND c.ref = v.ref;
        GET DIAGNOSTICS done = ROW_COUNT;
        PERFORM voice_expect(done, json_array_length(counters));
    END IF;
END $$;
"""

# In place of the foreign keys. The lock is the one that every batch holds which gives a session to this tenant or backend.
IN_USE = """
CREATE FUNCTION voice_in_use() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_TABLE_NAME = 'tenants_tenant' THEN
        PERFORM pg_advisory_xact_lock((x'766f1'::bigint << 44) + OLD.id);
        IF NOT EXISTS (SELECT FROM sessions_app_session WHERE tenant_id = OLD.id) THEN RETURN NULL; END IF;
    ELSE
        PERFORM pg_advisory_xact_lock((x'766f2'::bigint << 44) + OLD.id);
        IF NOT EXISTS (SELECT FROM sessions_app_session WHERE backend_id = OLD.id) THEN RETURN NULL; END IF;
    END IF;
    RAISE EXCEPTION '% % is named by sessions', TG_TABLE_NAME, OLD.id USING ERRCODE = 'foreign_key_violation';
END $$;
CREATE TRIGGER voice_in_use AFTER DELETE ON tenants_tenant FOR EACH ROW EXECUTE FUNCTION voice_in_use();
CREATE TRIGGER voice_in_use AFTER DELETE ON sessions_app_backend FOR EACH ROW EXECUTE FUNCTION voice_in_use();
CREATE TRIGGER voice_tenant_truncate BEFORE TRUNCATE ON tenants_tenant FOR EACH STATEMENT
    WHEN (coalesce(current_setting('voice.ledger', true), '') <> 'on') EXECUTE FUNCTION voice_refuse();
CREATE TRIGGER voice_backend_truncate BEFORE TRUNCATE ON sessions_app_backend FOR EACH STATEMENT
    WHEN (coalesce(current_setting('voice.ledger', true), '') <> 'on') EXECUTE FUNCTION voice_refuse();
"""

# The same refusals, with conditions that say less: PostgreSQL reads the condition of each trigger again for each statement.
STATE_COLUMNS = {
    "session": 'id tenant_id user state reason backend_id node_id limits attempted_at started_at active_at ended_at',
    "slot": "session_id tenant_id backend_id user state node_id since lease_until",
    "capacity": "scope ref active queued",
    "waiter": "session_id tenant_id user pipeline transport backend_name node_id since place absent_until",
}
REFUSE_CHANGE = """
CREATE FUNCTION voice_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    before jsonb := to_jsonb(OLD);
    after jsonb := to_jsonb(NEW);
BEGIN
    IF EXISTS (SELECT FROM unnest(TG_ARGV) AS a(name) WHERE before -> a.name IS DISTINCT FROM after -> a.name) THEN
        RAISE EXCEPTION '% on % is refused: state and capacity change only in the ledger', TG_OP, TG_TABLE_NAME USING ERRCODE = 'VP001';
    END IF;
    RETURN NEW;
END $$;
""" + "".join(
    f"DROP TRIGGER voice_{table}_update ON sessions_app_{table};\n"
    f"CREATE TRIGGER voice_{table}_update BEFORE UPDATE ON sessions_app_{table} FOR EACH ROW"
    " WHEN (coalesce(current_setting('voice.ledger', true), '') <> 'on')"
    f" EXECUTE FUNCTION voice_refuse_change({', '.join(repr(column) for column in columns.split())});\n"
    for table, columns in STATE_COLUMNS.items()
)

# Room in each page for the next versions of its rows, so that a change of state writes no index.
STORAGE = """
ALTER TABLE sessions_app_session SET (fillfactor = 70);
ALTER TABLE sessions_app_slot SET (fillfactor = 70);
ALTER TABLE sessions_app_capacity SET (fillfactor = 50);
ALTER TABLE sessions_app_ratebucket SET (fillfactor = 50);
"""


class Migration(migrations.Migration):
    dependencies = [("sessions_app", "0006_queue_guards"), ("tenants", "0002_overrides_and_reservations")]
    operations = [
        migrations.AlterField(
            model_name="session",
            name="tenant",
            field=models.ForeignKey(
                db_constraint=False, db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name="+", to="tenants.tenant"
            ),
        ),
        migrations.AlterField(
            model_name="session",
            name="backend",
            field=models.ForeignKey(
                db_constraint=False,
                db_index=False,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="sessions_app.backend",
            ),
        ),
        migrations.AlterField(
            model_name="sessionevent",
            name="session",
            field=models.ForeignKey(
                db_constraint=False,
                db_index=False,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="events",
                to="sessions_app.session",
            ),
        ),
        migrations.AlterField(
            model_name="slot",
            name="session",
            field=models.OneToOneField(
                db_constraint=False,
                on_delete=django.db.models.deletion.CASCADE,
                primary_key=True,
                related_name="slot",
                serialize=False,
                to="sessions_app.session",
            ),
        ),
        migrations.AlterField(
            model_name="waiter",
            name="session",
            field=models.OneToOneField(
                db_constraint=False,
                on_delete=django.db.models.deletion.CASCADE,
                primary_key=True,
                related_name="waiter",
                serialize=False,
                to="sessions_app.session",
            ),
        ),
        migrations.RemoveIndex(model_name="ratebucket", name="rate_buckets_by_time"),
        migrations.RunSQL(READ.replace("%(plans)s", PLANS), migrations.RunSQL.noop),
        migrations.RunSQL(LOCK.replace("%(plans)s", PLANS), migrations.RunSQL.noop),
        migrations.RunSQL(WRITE.replace("%(plans)s", PLANS), migrations.RunSQL.noop),
        migrations.RunSQL(IN_USE + REFUSE_CHANGE + STORAGE, migrations.RunSQL.noop),
    ]
