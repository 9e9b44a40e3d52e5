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

-- The most that overrides may add to a tenant's limits while this statement runs: who decides by it does so some moments later.
CREATE FUNCTION voice_changes(tenant bigint) RETURNS TABLE (at_once bigint, burst bigint, of_user bigint) LANGUAGE sql STABLE ROWS 1 AS $$
    SELECT coalesce(sum(o.change) FILTER (WHERE o.field = 'max_concurrent_sessions'), 0),
        coalesce(sum(o.change) FILTER (WHERE o.field = 'burst'), 0),
        coalesce(sum(o.change) FILTER (WHERE o.field = 'max_sessions_per_user'), 0)
    FROM tenants_override o WHERE o.tenant_id = tenant AND o.ends_at > statement_timestamp() AND CASE WHEN o.change > 0
        THEN o.starts_at <= statement_timestamp() + interval '3 s'
        ELSE o.starts_at <= statement_timestamp() AND o.ends_at > statement_timestamp() + interval '3 s' END
$$;

CREATE FUNCTION voice_changed(base integer, change bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN base IS NOT NULL THEN greatest(0, base + change) END
$$;

-- What the waiters of a tenant ask for, each wish once.
CREATE FUNCTION voice_asks(tenant bigint) RETURNS TABLE (backend_name text, pipeline text, transport text) LANGUAGE plpgsql STABLE ROWS 2 AS $$
BEGIN
    SELECT w.backend_name, w.pipeline, w.transport INTO backend_name, pipeline, transport FROM sessions_app_waiter w
        WHERE w.tenant_id = tenant ORDER BY w.backend_name, w.pipeline, w.transport LIMIT 1;
    WHILE FOUND LOOP
        RETURN NEXT;
        SELECT w.backend_name, w.pipeline, w.transport INTO backend_name, pipeline, transport FROM sessions_app_waiter w
            WHERE w.tenant_id = tenant
            AND (w.backend_name, w.pipeline, w.transport) > (voice_asks.backend_name, voice_asks.pipeline, voice_asks.transport)
            ORDER BY w.backend_name, w.pipeline, w.transport LIMIT 1;
    END LOOP;
END $$;

CREATE FUNCTION voice_serves(name text, pipelines jsonb, transports jsonb, wanted text, pipeline text, transport text)
RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT (wanted = '' OR wanted = name) AND transports ? transport AND CASE pipeline WHEN '' THEN pipelines <> '{}' ELSE pipelines ? pipeline END
$$;

-- Of a line, user by user, those who may be let in: of each user as many as it may have, whose client is there. Null: its users are more
-- than ``most_users``. ``held``: users of whom it is known that they have what they may have.
CREATE FUNCTION voice_line_by_user(tenant bigint, wanted text, pipeline_wanted text, transport_wanted text, user_limit bigint, sessions uuid[],
                                   most integer, most_users integer, held text[])
RETURNS sessions_app_waiter[] LANGUAGE plpgsql STABLE AS $$
DECLARE
    names text[];
BEGIN
    names := ARRAY(WITH RECURSIVE users AS (
        (SELECT w."user", 1 AS number FROM sessions_app_waiter w WHERE w.tenant_id = tenant AND w.backend_name = wanted
            AND w.pipeline = pipeline_wanted AND w.transport = transport_wanted ORDER BY w."user" LIMIT 1)
        UNION ALL
        SELECT (SELECT w."user" FROM sessions_app_waiter w WHERE w.tenant_id = tenant AND w.backend_name = wanted
            AND w.pipeline = pipeline_wanted AND w.transport = transport_wanted AND w."user" > users."user" ORDER BY w."user" LIMIT 1),
            users.number + 1 FROM users WHERE users."user" IS NOT NULL AND users.number <= most_users)
        SELECT users."user" FROM users WHERE users."user" IS NOT NULL);
    IF cardinality(names) > most_users THEN
        RETURN NULL;
    END IF;
    names := ARRAY(SELECT u.name FROM unnest(names) AS u(name) WHERE u.name NOT IN (SELECT unnest(held))
        AND (SELECT count(*) FROM sessions_app_slot s WHERE s.tenant_id = tenant AND s."user" = u.name
             AND s.session_id NOT IN (SELECT unnest(sessions))) < user_limit);
    IF cardinality(names) = 0 THEN
        RETURN '{}';
    END IF;
    RETURN ARRAY(SELECT w FROM unnest(names) AS u(name) CROSS JOIN LATERAL (
            SELECT * FROM sessions_app_waiter w WHERE w.tenant_id = tenant AND w.backend_name = wanted AND w.pipeline = pipeline_wanted
            AND w.transport = transport_wanted AND w."user" = u.name AND w.absent_until IS NULL
            ORDER BY w.since, w.place LIMIT least(user_limit, most + 1)) AS w
        ORDER BY w.since, w.place LIMIT most + 1);
END $$;

-- The first ``most`` of a line whose client is there, but for those whose user has as many sessions as it may have, whatever this batch ends.
-- ``cut``: there may be others behind the last that was looked at, who is at ``since`` and ``place``. The first ``depth`` are looked at, null:
-- all. Where these are all held back by their users, who waits behind them is looked for user by user, if the users are not too many; where
-- they are few that is all there is to do.
CREATE FUNCTION voice_line(tenant bigint, wanted text, pipeline_wanted text, transport_wanted text, user_limit bigint, sessions uuid[],
                           most integer, depth integer,
                           OUT heads sessions_app_waiter[], OUT cut boolean, OUT since timestamptz, OUT place bigint)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    held text[];
    last sessions_app_waiter;
BEGIN
    cut := false;
    IF user_limit IS NOT NULL THEN
        heads := voice_line_by_user(tenant, wanted, pipeline_wanted, transport_wanted, user_limit, sessions, most, 4, '{}');
    END IF;
    IF heads IS NULL THEN
        depth := CASE WHEN user_limit IS NULL THEN most ELSE depth END;
        heads := ARRAY(SELECT w FROM sessions_app_waiter w WHERE w.tenant_id = tenant AND w.backend_name = wanted
            AND w.pipeline = pipeline_wanted AND w.transport = transport_wanted AND w.absent_until IS NULL
            ORDER BY w.since, w.place LIMIT depth + 1);
        IF cardinality(heads) > depth THEN
            cut := true;
            heads := heads[:depth];
            last := heads[depth];
        END IF;
        IF user_limit IS NOT NULL THEN
            held := ARRAY(SELECT u.name FROM (SELECT DISTINCT w."user" FROM unnest(heads) AS w) AS u(name)
                WHERE (SELECT count(*) FROM sessions_app_slot s WHERE s.tenant_id = tenant AND s."user" = u.name
                       AND s.session_id NOT IN (SELECT unnest(sessions))) >= user_limit);
            IF cardinality(held) > 0 THEN
                heads := ARRAY(SELECT w FROM unnest(heads) AS w WHERE w."user" NOT IN (SELECT unnest(held)) ORDER BY w.since, w.place);
            END IF;
            IF cut AND cardinality(heads) = 0 THEN
                heads := voice_line_by_user(tenant, wanted, pipeline_wanted, transport_wanted, user_limit, sessions, most, depth, held);
                cut := heads IS NULL;
            END IF;
        END IF;
    END IF;
    IF cardinality(heads) > most THEN
        cut := true;
        heads := heads[:most];
        last := heads[most];
    END IF;
    IF cut THEN
        since := last.since;
        place := last.place;
    END IF;
END $$;
"""

LOOKS = """
-- Whose waiters come first, by their rows as they are before the locks: who is locked is a guess, who is promoted is not. Who cannot be let
-- in is left out: they may be many.
CREATE OR REPLACE FUNCTION voice_first_in_queue(sessions uuid[], queues integer) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    full_for_most bigint[] := '{}';
    -- Where all of them are looked at it does not matter that there are some whose users are held back.
    many CONSTANT boolean := (SELECT count(*) FROM (SELECT FROM sessions_app_capacity c WHERE c.scope = 'tenant' AND c.queued > 0
                                                    LIMIT queues + 1) AS waiting) > queues;
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
        CROSS JOIN LATERAL voice_changes(t.id) AS more
        CROSS JOIN LATERAL (SELECT min(line.since) AS since FROM (
                SELECT ask.* FROM voice_asks(t.id) AS ask WHERE t.status <> 'active' OR EXISTS (SELECT FROM roomy r
                    WHERE voice_serves(r.name, r.pipelines, r.transports, ask.backend_name, ask.pipeline, ask.transport)
                    AND (r.calm OR q.max_concurrent_sessions IS NULL OR c.active < voice_changed(q.max_concurrent_sessions, more.at_once))
                    AND (q.reserved > 0 OR r.id <> ALL(full_for_most)) AND voice_may_use(t.id, r.id)) OFFSET 0) AS ask
            CROSS JOIN LATERAL (SELECT coalesce(
                (SELECT w.since FROM (SELECT * FROM sessions_app_waiter w WHERE w.tenant_id = t.id AND w.backend_name = ask.backend_name
                        AND w.pipeline = ask.pipeline AND w.transport = ask.transport AND w.absent_until IS NULL
                        ORDER BY w.since, w.place LIMIT 4) AS w
                    WHERE NOT many OR q.max_sessions_per_user IS NULL OR t.status <> 'active'
                        OR (SELECT count(*) FROM sessions_app_slot s WHERE s.tenant_id = t.id AND s."user" = w."user")
                           < voice_changed(q.max_sessions_per_user, more.of_user)
                    ORDER BY w.since, w.place LIMIT 1),
                (SELECT coalesce(l.heads[1].since, l.since) FROM voice_line(t.id, ask.backend_name, ask.pipeline, ask.transport,
                    voice_changed(q.max_sessions_per_user, more.of_user), sessions, 1, 16) AS l)) AS since) AS line) AS first
        WHERE c.scope = 'tenant' AND c.queued > 0 AND first.since IS NOT NULL
            AND (q.max_concurrent_sessions IS NULL OR c.active < q.max_concurrent_sessions + q.burst OR t.status <> 'active'
                OR c.active < voice_changed(q.max_concurrent_sessions, more.at_once) + voice_changed(q.burst, more.burst))
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
            SELECT t.id, q.reserved > 0 AS reserves, voice_changed(q.max_sessions_per_user, more.of_user) AS of_user,
                coalesce(c.active >= voice_changed(q.max_concurrent_sessions, more.at_once), false) AS burst
            FROM sessions_app_capacity c JOIN tenants_quota q ON q.tenant_id = c.ref JOIN tenants_tenant t ON t.id = c.ref AND t.status = 'active'
            CROSS JOIN LATERAL voice_changes(t.id) AS more
            WHERE c.scope = 'tenant' AND c.queued > 0 AND c.ref NOT IN (SELECT unnest(asking)) AND (q.max_concurrent_sessions IS NULL
                OR c.active < voice_changed(q.max_concurrent_sessions, more.at_once) + voice_changed(q.burst, more.burst))
            LIMIT 256),
        asks AS MATERIALIZED (SELECT t.*, ask.* FROM tenants t CROSS JOIN LATERAL voice_asks(t.id) AS ask)
        SELECT json_agg(json_build_array(who.id, r.id, kind.burst)) FROM roomy r
        CROSS JOIN (SELECT DISTINCT t.burst, t.reserves FROM tenants t) AS kind
        CROSS JOIN LATERAL (
            SELECT DISTINCT found.id FROM (
                SELECT a.id FROM asks a
                WHERE a.burst = kind.burst AND a.reserves = kind.reserves AND (r.calm OR NOT a.burst)
                    AND voice_serves(r.name, r.pipelines, r.transports, a.backend_name, a.pipeline, a.transport) AND voice_may_use(a.id, r.id)
                    AND (SELECT l.cut OR cardinality(l.heads) > 0 FROM voice_line(a.id, a.backend_name, a.pipeline, a.transport, a.of_user,
                         sessions, 1, 16) AS l)
                LIMIT CASE WHEN NOT kind.reserves THEN 1 END) AS found) AS who);
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
        ending AS MATERIALIZED (SELECT s.tenant_id AS id, count(*) AS sessions FROM sessions_app_slot s
            WHERE s.session_id = ANY(sessions) GROUP BY s.tenant_id),
        -- What nobody with room serves is sorted out first: to look at a line costs more.
        asks AS MATERIALIZED (
            SELECT t.id, t.status, q.max_sessions_per_user, more.of_user, ask.*
            FROM unnest(asking) AS asks(id) JOIN tenants_tenant t USING (id) JOIN tenants_quota q ON q.tenant_id = t.id
            JOIN sessions_app_capacity c ON c.scope = 'tenant' AND c.ref = t.id AND c.queued > 0
            CROSS JOIN LATERAL voice_changes(t.id) AS more
            CROSS JOIN LATERAL (SELECT voice_changed(q.max_concurrent_sessions, more.at_once) AS at_once,
                c.active - coalesce((SELECT e.sessions FROM ending e WHERE e.id = t.id), 0) AS active) AS now
            CROSS JOIN LATERAL voice_asks(t.id) AS ask
            WHERE t.status <> 'active' OR (
                (q.max_concurrent_sessions IS NULL OR now.active < now.at_once + voice_changed(q.burst, more.burst))
                AND EXISTS (SELECT FROM roomy r
                    WHERE voice_serves(r.name, r.pipelines, r.transports, ask.backend_name, ask.pipeline, ask.transport)
                    AND (r.calm OR q.max_concurrent_sessions IS NULL OR now.active < now.at_once) AND voice_may_use(t.id, r.id)))),
        lines AS MATERIALIZED (
            SELECT ask.*, line.* FROM asks AS ask
            CROSS JOIN LATERAL voice_line(ask.id, ask.backend_name, ask.pipeline, ask.transport,
                CASE ask.status WHEN 'active' THEN voice_changed(ask.max_sessions_per_user, ask.of_user) END, sessions, most,
                CASE WHEN cardinality(sessions) > 0 THEN 2 * most END) AS line)
        SELECT json_build_object(
            'waiters', (SELECT json_agg(voice_waiter(w, l.max_sessions_per_user) ORDER BY w.since, w.place)
                FROM lines l CROSS JOIN LATERAL unnest(l.heads) AS w),
            'cut', (SELECT json_agg(json_build_array(l.id, l.backend_name, l.pipeline, l.transport, l.since, l.place))
                FROM lines l WHERE l.cut AND l.status = 'active'),
            'others', others));
END $$;
"""


class Migration(migrations.Migration):
    dependencies = [("sessions_app", "0011_access_is_a_limit")]
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
