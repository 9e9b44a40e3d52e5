"""A long queue of which nobody can be let in costs a batch little: it is read by backend, and the users at their limit once a tenant.

The index of a tenant's waiters in order goes: the planner prefers it, and then reads and passes over all who asked for a full backend.
"""

from django.db import migrations, models

LINES = """
-- The first of a tenant's queue whose client is there: for each backend with room those who asked for it, and those who asked for any, but
-- for those whose user is at a limit, whatever this batch ends: long lines of them block nobody. Of each line the first ``depth`` are looked
-- at, null: all. Where the tenant may not go on, everybody.
CREATE FUNCTION voice_line(tenant bigint, going_on boolean, names text[], user_limit integer, sessions uuid[], most integer, depth integer)
RETURNS SETOF sessions_app_waiter LANGUAGE plpgsql STABLE ROWS 64 AS $$
DECLARE
    at_limit text[];
BEGIN
    IF NOT going_on THEN
        RETURN QUERY SELECT * FROM sessions_app_waiter w WHERE w.tenant_id = tenant AND w.absent_until IS NULL
            ORDER BY w.since, w.place LIMIT most;
    ELSIF names IS NOT NULL THEN
        IF user_limit IS NOT NULL THEN
            at_limit := ARRAY(SELECT s."user" FROM sessions_app_slot s WHERE s.tenant_id = tenant
                AND s.session_id NOT IN (SELECT unnest(sessions)) GROUP BY s."user" HAVING count(*) >= user_limit);
        END IF;
        RETURN QUERY SELECT w.* FROM unnest(names || ''::text) AS wanted(name) CROSS JOIN LATERAL (
                SELECT * FROM (SELECT * FROM sessions_app_waiter w WHERE w.tenant_id = tenant AND w.backend_name = wanted.name
                               AND w.absent_until IS NULL ORDER BY w.since, w.place LIMIT depth) AS w
                WHERE at_limit IS NULL OR w."user" NOT IN (SELECT unnest(at_limit))
                ORDER BY w.since, w.place LIMIT most) AS w
            ORDER BY w.since, w.place LIMIT most;
    END IF;
END $$;

-- Whose waiters come first, by their rows as they are before the locks: who is locked is a guess, who is promoted is not.
CREATE OR REPLACE FUNCTION voice_first_in_queue(sessions uuid[], queues integer) RETURNS bigint[] LANGUAGE plpgsql AS $$
BEGIN
    RETURN ARRAY(
        WITH roomy AS MATERIALIZED (SELECT * FROM voice_roomy(sessions))
        SELECT c.ref FROM sessions_app_capacity c JOIN tenants_quota q ON q.tenant_id = c.ref JOIN tenants_tenant t ON t.id = c.ref
        CROSS JOIN LATERAL (SELECT array_agg(r.name) AS names FROM roomy r
            WHERE NOT EXISTS (SELECT FROM sessions_app_backendaccess a WHERE a.tenant_id = t.id)
               OR EXISTS (SELECT FROM sessions_app_backendaccess a WHERE a.tenant_id = t.id AND a.backend_id = r.id)) AS room
        CROSS JOIN LATERAL (SELECT min(line.since) AS since FROM voice_line(t.id, t.status = 'active', room.names, NULL, sessions, 1, 1) AS line) AS first
        WHERE first.since IS NOT NULL AND c.scope = 'tenant' AND c.queued > 0 AND (q.max_concurrent_sessions IS NULL
              OR c.active < q.max_concurrent_sessions + q.burst OR t.status <> 'active'
              OR EXISTS (SELECT FROM tenants_override o WHERE o.tenant_id = c.ref))
        ORDER BY q.priority + floor(extract(epoch FROM clock_timestamp() - first.since) / 30) DESC, c.active::float8 / q.weight, first.since
        LIMIT queues);
END $$;

-- The first of each tenant that asks and may get more than it has, now or when these sessions have ended.
-- A batch passes over no more of a line than twice what it looks at; one that is for no session, and only promotes, over any number.
CREATE OR REPLACE FUNCTION voice_first_waiters(asking bigint[], sessions uuid[], most integer) RETURNS json LANGUAGE plpgsql AS $$
BEGIN
    RETURN (
        WITH roomy AS MATERIALIZED (SELECT * FROM voice_roomy(sessions))
        SELECT json_agg(voice_waiter(line, q.max_sessions_per_user) ORDER BY line.since, line.place)
        FROM unnest(asking) AS asks(id) JOIN tenants_tenant t USING (id) JOIN tenants_quota q ON q.tenant_id = t.id
        JOIN sessions_app_capacity c ON c.scope = 'tenant' AND c.ref = t.id AND c.queued > 0
        CROSS JOIN LATERAL (SELECT array_agg(r.name) AS names FROM roomy r
            WHERE NOT EXISTS (SELECT FROM sessions_app_backendaccess a WHERE a.tenant_id = t.id)
               OR EXISTS (SELECT FROM sessions_app_backendaccess a WHERE a.tenant_id = t.id AND a.backend_id = r.id)) AS room
        CROSS JOIN LATERAL (SELECT coalesce(array_agg(o.field), '{}') AS fields FROM tenants_override o WHERE o.tenant_id = t.id) AS overridden
        CROSS JOIN LATERAL voice_line(t.id, t.status = 'active', room.names,
            CASE WHEN 'max_sessions_per_user' <> ALL(overridden.fields) THEN q.max_sessions_per_user END, sessions, most,
            CASE WHEN cardinality(sessions) > 0 THEN 2 * most END) AS line
        WHERE t.status <> 'active' OR q.max_concurrent_sessions IS NULL OR cardinality(overridden.fields) > 0
            OR c.active - (SELECT count(*) FROM sessions_app_slot s WHERE s.tenant_id = t.id AND s.session_id = ANY(sessions))
               < q.max_concurrent_sessions + q.burst);
END $$;
"""


class Migration(migrations.Migration):
    dependencies = [("sessions_app", "0008_rooms")]
    operations = [
        migrations.RemoveIndex(model_name="waiter", name="waiters_in_order"),
        migrations.AddIndex(
            model_name="waiter",
            index=models.Index(fields=["tenant_id", "backend_name", "since", "place"], name="waiters_for_a_backend"),
        ),
        migrations.RunSQL(LINES, migrations.RunSQL.noop),
    ]
