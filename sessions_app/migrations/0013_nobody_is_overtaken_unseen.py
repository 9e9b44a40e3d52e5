"""A look at the queue says where it ended, so that nobody new overtakes those who were not looked at.

A tenant's queue is read in lines: all who ask for the same backend, pipeline and transport. Whoever heads a line that a backend with room
can serve may be let in, but for the limit of their user; what no such backend serves is not read at all.
"""

from django.db import migrations, models

LINES = """
DROP FUNCTION voice_line(bigint, boolean, text[], integer, uuid[], integer, integer);
DROP FUNCTION voice_roomy(uuid[]);

-- Backends that have room, or may have it when a batch that ends these sessions is done; ``calm``: also for a burst.
CREATE FUNCTION voice_roomy(sessions uuid[]) RETURNS TABLE (id bigint, name text, pipelines jsonb, transports jsonb, calm boolean, room bigint)
LANGUAGE sql STABLE ROWS 10 AS $$
    SELECT b.id, b.name, CASE jsonb_typeof(b.pipelines) WHEN 'object' THEN b.pipelines ELSE '{}' END,
        CASE jsonb_typeof(b.transports) WHEN 'array' THEN b.transports ELSE '[]' END,
        b.cap IS NULL OR now.ends OR (b.cap > 0 AND now.active::float8 / b.cap < b.burst_below),
        CASE WHEN now.ends THEN NULL ELSE b.cap - now.active END
    FROM sessions_app_backend b JOIN sessions_app_backendhealth h ON h.backend_id = b.id AND h.status = 'healthy'
    LEFT JOIN sessions_app_capacity k ON k.scope = 'backend' AND k.ref = b.id
    CROSS JOIN LATERAL (SELECT coalesce(k.active, 0) AS active,
        b.id IN (SELECT backend_id FROM sessions_app_slot WHERE session_id = ANY(sessions)) AS ends) AS now
    WHERE b.enabled AND NOT b.draining AND (b.cap IS NULL OR now.active < b.cap OR now.ends)
$$;

CREATE FUNCTION voice_may_use(tenant bigint, backend bigint) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT NOT EXISTS (SELECT FROM sessions_app_backendaccess a WHERE a.tenant_id = tenant)
        OR EXISTS (SELECT FROM sessions_app_backendaccess a WHERE a.tenant_id = tenant AND a.backend_id = backend)
$$;

-- The most that a limit may be while this statement runs, with what overrides add to it: who decides by it does so some moments later.
CREATE FUNCTION voice_most(base integer, tenant bigint, name text) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN base IS NOT NULL THEN greatest(0, base + coalesce((SELECT sum(o.change) FROM tenants_override o
        WHERE o.tenant_id = tenant AND o.field = name AND o.ends_at > statement_timestamp() AND CASE WHEN o.change > 0
            THEN o.starts_at <= statement_timestamp() + interval '3 s'
            ELSE o.starts_at <= statement_timestamp() AND o.ends_at > statement_timestamp() + interval '3 s' END), 0)) END
$$;

-- What the waiters of a tenant ask for, each wish once.
CREATE FUNCTION voice_asks(tenant bigint) RETURNS TABLE (backend_name text, pipeline text, transport text) LANGUAGE plpgsql STABLE ROWS 2 AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY WITH RECURSIVE asks AS (
        (SELECT w.backend_name, w.pipeline, w.transport FROM sessions_app_waiter w WHERE w.tenant_id = tenant
         ORDER BY w.backend_name, w.pipeline, w.transport LIMIT 1)
        UNION ALL
        SELECT following.* FROM asks CROSS JOIN LATERAL (
            SELECT w.backend_name, w.pipeline, w.transport FROM sessions_app_waiter w
            WHERE w.tenant_id = tenant AND (w.backend_name, w.pipeline, w.transport) > (asks.backend_name, asks.pipeline, asks.transport)
            ORDER BY w.backend_name, w.pipeline, w.transport LIMIT 1) AS following)
    SELECT asks.backend_name::text, asks.pipeline::text, asks.transport::text FROM asks;
END $$;

CREATE FUNCTION voice_serves(name text, pipelines jsonb, transports jsonb, wanted text, pipeline text, transport text)
RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT (wanted = '' OR wanted = name) AND transports ? transport AND CASE pipeline WHEN '' THEN pipelines <> '{}' ELSE pipelines ? pipeline END
$$;

-- The first ``most`` of a line whose client is there, but for those whose user has as many sessions as it may have, whatever this batch ends.
-- The first ``depth`` are looked at, null: all. Where all of these are held back by their users, it is asked who waits behind them, user by
-- user, if they are not too many. ``cut``: there may be others behind the last that was looked at, who is at ``since`` and ``place``.
CREATE FUNCTION voice_line(tenant bigint, wanted text, pipeline_wanted text, transport_wanted text, user_limit bigint, sessions uuid[],
                           most integer, depth integer,
                           OUT heads sessions_app_waiter[], OUT cut boolean, OUT since timestamptz, OUT place bigint)
LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
DECLARE
    seen sessions_app_waiter[];
    users text[];
    last sessions_app_waiter;
BEGIN
    depth := CASE WHEN user_limit IS NULL THEN most ELSE depth END;
    seen := ARRAY(SELECT w FROM sessions_app_waiter w WHERE w.tenant_id = tenant AND w.backend_name = wanted
        AND w.pipeline = pipeline_wanted AND w.transport = transport_wanted AND w.absent_until IS NULL
        ORDER BY w.since, w.place LIMIT depth + 1);
    cut := coalesce(cardinality(seen) > depth, false);
    IF cut THEN
        seen := seen[:depth];
        last := seen[depth];
    END IF;
    heads := seen;
    IF user_limit IS NOT NULL THEN
        users := ARRAY(SELECT u.name FROM (SELECT DISTINCT s."user" FROM unnest(seen) AS s) AS u(name)
            WHERE (SELECT count(*) FROM sessions_app_slot s WHERE s.tenant_id = tenant AND s."user" = u.name
                   AND s.session_id NOT IN (SELECT unnest(sessions))) >= user_limit);
        IF cardinality(users) > 0 THEN
            heads := ARRAY(SELECT s FROM unnest(seen) AS s WHERE s."user" NOT IN (SELECT unnest(users)) ORDER BY s.since, s.place);
        END IF;
        IF cut AND cardinality(heads) = 0 THEN
            users := ARRAY(WITH RECURSIVE users AS (
                (SELECT w."user", 1 AS number FROM sessions_app_waiter w WHERE w.tenant_id = tenant AND w.backend_name = wanted
                    AND w.pipeline = pipeline_wanted AND w.transport = transport_wanted ORDER BY w."user" LIMIT 1)
                UNION ALL
                SELECT following."user", users.number + 1 FROM users CROSS JOIN LATERAL (
                    SELECT w."user" FROM sessions_app_waiter w WHERE w.tenant_id = tenant AND w.backend_name = wanted
                    AND w.pipeline = pipeline_wanted AND w.transport = transport_wanted AND w."user" > users."user"
                    ORDER BY w."user" LIMIT 1) AS following
                WHERE users.number <= depth)
                SELECT users."user"::text FROM users);
            IF cardinality(users) <= depth THEN
                -- Of each user as many as it may have: more cannot be let in by one batch.
                heads := ARRAY(SELECT w FROM unnest(users) AS u(name) CROSS JOIN LATERAL (
                        SELECT * FROM sessions_app_waiter w WHERE w.tenant_id = tenant AND w.backend_name = wanted
                        AND w.pipeline = pipeline_wanted AND w.transport = transport_wanted AND w."user" = u.name AND w.absent_until IS NULL
                        ORDER BY w.since, w.place LIMIT least(user_limit, most + 1)) AS w
                    WHERE (SELECT count(*) FROM sessions_app_slot s WHERE s.tenant_id = tenant AND s."user" = u.name
                           AND s.session_id NOT IN (SELECT unnest(sessions))) < user_limit
                    ORDER BY w.since, w.place LIMIT most + 1);
                cut := false;
            END IF;
        END IF;
    END IF;
    IF cardinality(heads) > most THEN
        cut := true;
        heads := heads[:most];
        last := heads[most];
    END IF;
    since := last.since;
    place := last.place;
END $$;
"""

LOOKS = """
-- Whose waiters come first, by their rows as they are before the locks: who is locked is a guess, who is promoted is not. Who cannot be let
-- in is left out: they may be many.
CREATE OR REPLACE FUNCTION voice_first_in_queue(sessions uuid[], queues integer) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    full_for_most bigint[] := '{}';
BEGIN
    -- What is left of these is kept for tenants that reserved it.
    IF EXISTS (SELECT FROM tenants_quota WHERE reserved > 0) THEN
        full_for_most := ARRAY(SELECT r.id FROM voice_roomy(sessions) r JOIN (
                SELECT place.id, sum(greatest(0, q.reserved - (SELECT count(*) FROM sessions_app_slot s
                    WHERE s.tenant_id = q.tenant_id AND s.backend_id = place.id))) AS slots
                FROM tenants_quota q CROSS JOIN LATERAL (SELECT voice_reserved_on(q.tenant_id, q.reserved_backend) AS id) AS place
                WHERE q.reserved > 0 AND place.id IS NOT NULL GROUP BY place.id) AS kept ON kept.id = r.id
            WHERE r.room <= kept.slots);
    END IF;
    RETURN ARRAY(
        WITH roomy AS MATERIALIZED (SELECT * FROM voice_roomy(sessions))
        SELECT c.ref FROM sessions_app_capacity c JOIN tenants_quota q ON q.tenant_id = c.ref JOIN tenants_tenant t ON t.id = c.ref
        CROSS JOIN LATERAL (SELECT voice_most(q.max_concurrent_sessions, t.id, 'max_concurrent_sessions') AS at_once,
            voice_most(q.burst, t.id, 'burst') AS burst, voice_most(q.max_sessions_per_user, t.id, 'max_sessions_per_user') AS of_user,
            c.active - (SELECT count(*) FROM sessions_app_slot s WHERE s.tenant_id = t.id AND s.session_id = ANY(sessions)) AS active) AS most
        CROSS JOIN LATERAL (SELECT min(CASE WHEN cardinality(line.heads) > 0 THEN line.heads[1].since ELSE line.since END) AS since
            FROM voice_asks(t.id) AS ask
            CROSS JOIN LATERAL voice_line(t.id, ask.backend_name, ask.pipeline, ask.transport,
                CASE t.status WHEN 'active' THEN most.of_user END, sessions, 1, 16) AS line
            WHERE t.status <> 'active' OR EXISTS (SELECT FROM roomy r WHERE (q.reserved > 0 OR r.id <> ALL(full_for_most))
                AND voice_may_use(t.id, r.id) AND (r.calm OR most.at_once IS NULL OR most.active < most.at_once)
                AND voice_serves(r.name, r.pipelines, r.transports, ask.backend_name, ask.pipeline, ask.transport))) AS first
        WHERE c.scope = 'tenant' AND c.queued > 0 AND first.since IS NOT NULL
            AND (t.status <> 'active' OR most.at_once IS NULL OR most.active < most.at_once + most.burst)
        ORDER BY q.priority + floor(extract(epoch FROM clock_timestamp() - first.since) / 30) DESC, c.active::float8 / q.weight, first.since
        LIMIT queues);
END $$;

-- Of tenants that were not looked at: for each backend with room somebody, if there is anybody, who may go there. One who needs a burst for
-- it does not stand for one who does not, nor one who reserved slots for one who did not.
CREATE FUNCTION voice_others(asking bigint[], sessions uuid[]) RETURNS json LANGUAGE plpgsql AS $$
BEGIN
    RETURN (
        WITH roomy AS MATERIALIZED (SELECT * FROM voice_roomy(sessions)),
        tenants AS MATERIALIZED (
            SELECT t.id, q.reserved > 0 AS reserves, most.of_user, coalesce(c.active >= most.at_once, false) AS burst
            FROM sessions_app_capacity c JOIN tenants_quota q ON q.tenant_id = c.ref JOIN tenants_tenant t ON t.id = c.ref AND t.status = 'active'
            CROSS JOIN LATERAL (SELECT voice_most(q.max_concurrent_sessions, t.id, 'max_concurrent_sessions') AS at_once,
                voice_most(q.burst, t.id, 'burst') AS burst, voice_most(q.max_sessions_per_user, t.id, 'max_sessions_per_user') AS of_user) AS most
            WHERE c.scope = 'tenant' AND c.queued > 0 AND c.ref NOT IN (SELECT unnest(asking))
                AND (most.at_once IS NULL OR c.active < most.at_once + most.burst)
            LIMIT 256),
        asks AS MATERIALIZED (SELECT t.*, ask.* FROM tenants t CROSS JOIN LATERAL voice_asks(t.id) AS ask)
        SELECT json_agg(json_build_array(who.id, r.id, kind.burst)) FROM roomy r
        CROSS JOIN (VALUES (false, false), (false, true), (true, false), (true, true)) AS kind(burst, reserves)
        CROSS JOIN LATERAL (
            SELECT DISTINCT heads.id FROM (
                SELECT a.id FROM asks a CROSS JOIN LATERAL voice_line(a.id, a.backend_name, a.pipeline, a.transport, a.of_user, sessions, 1, 16) AS line
                WHERE a.burst = kind.burst AND a.reserves = kind.reserves AND (r.calm OR NOT a.burst)
                    AND voice_serves(r.name, r.pipelines, r.transports, a.backend_name, a.pipeline, a.transport)
                    AND voice_may_use(a.id, r.id) AND (line.cut OR cardinality(line.heads) > 0)
                LIMIT CASE WHEN NOT kind.reserves THEN 1 END) AS heads) AS who);
END $$;

-- The first of each tenant that asks and may get more than it has, now or when these sessions have ended; which of its lines go on behind
-- them; and whether there are others. Of a line a batch looks at no more than twice as many as it takes; one that is for no session, and
-- only promotes, at any number.
CREATE OR REPLACE FUNCTION voice_first_waiters(asking bigint[], sessions uuid[], most integer) RETURNS json LANGUAGE plpgsql AS $$
DECLARE
    others json;
BEGIN
    IF EXISTS (SELECT FROM sessions_app_capacity c WHERE c.scope = 'tenant' AND c.queued > 0 AND c.ref NOT IN (SELECT unnest(asking))) THEN
        others := voice_others(asking, sessions);
    END IF;
    RETURN (
        WITH roomy AS MATERIALIZED (SELECT * FROM voice_roomy(sessions)),
        lines AS MATERIALIZED (
            SELECT t.id, t.status, q.max_sessions_per_user, ask.*, line.*
            FROM unnest(asking) AS asks(id) JOIN tenants_tenant t USING (id) JOIN tenants_quota q ON q.tenant_id = t.id
            JOIN sessions_app_capacity c ON c.scope = 'tenant' AND c.ref = t.id AND c.queued > 0
            CROSS JOIN LATERAL (SELECT voice_most(q.max_concurrent_sessions, t.id, 'max_concurrent_sessions') AS at_once,
                voice_most(q.burst, t.id, 'burst') AS burst, voice_most(q.max_sessions_per_user, t.id, 'max_sessions_per_user') AS of_user,
                c.active - (SELECT count(*) FROM sessions_app_slot s WHERE s.tenant_id = t.id AND s.session_id = ANY(sessions)) AS active) AS most_of
            CROSS JOIN LATERAL voice_asks(t.id) AS ask
            CROSS JOIN LATERAL voice_line(t.id, ask.backend_name, ask.pipeline, ask.transport,
                CASE t.status WHEN 'active' THEN most_of.of_user END, sessions, most,
                CASE WHEN cardinality(sessions) > 0 THEN 2 * most END) AS line
            WHERE t.status <> 'active' OR ((most_of.at_once IS NULL OR most_of.active < most_of.at_once + most_of.burst)
                AND EXISTS (SELECT FROM roomy r WHERE voice_may_use(t.id, r.id)
                    AND (r.calm OR most_of.at_once IS NULL OR most_of.active < most_of.at_once)
                    AND voice_serves(r.name, r.pipelines, r.transports, ask.backend_name, ask.pipeline, ask.transport))))
        SELECT json_build_object(
            'waiters', (SELECT json_agg(voice_waiter(w, l.max_sessions_per_user) ORDER BY w.since, w.place)
                FROM lines l CROSS JOIN LATERAL unnest(l.heads) AS w),
            'cut', (SELECT json_agg(json_build_array(l.id, l.backend_name, l.pipeline, l.transport, l.since, l.place))
                FROM lines l WHERE l.cut AND l.status = 'active'),
            'others', others));
END $$;
"""


class Migration(migrations.Migration):
    dependencies = [("sessions_app", "0010_rows_by_columns")]
    operations = [
        migrations.RemoveIndex(model_name="waiter", name="waiters_for_a_backend"),
        migrations.AddIndex(
            model_name="waiter",
            index=models.Index(fields=["tenant_id", "backend_name", "pipeline", "transport", "since", "place"], name="waiters_in_line"),
        ),
        migrations.AddIndex(
            model_name="waiter",
            index=models.Index(
                fields=["tenant_id", "backend_name", "pipeline", "transport", "user", "since", "place"], name="waiters_in_line_by_user"
            ),
        ),
        migrations.RunSQL(LINES + LOOKS, migrations.RunSQL.noop),
    ]
