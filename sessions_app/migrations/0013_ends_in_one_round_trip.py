"""Who only ends sessions, while nobody waits who could be let in for it, has nothing to decide: it is done in one round trip.

``voice_finish`` takes the locks of a batch, and ends by compare-and-set what holds a slot, fits, and is where it was when the locks were
chosen. Whatever it leaves alone, and everything where somebody may gain by it, goes the way of any other batch.

Nobody looks for slots by their node alone: a sweep goes through all of them, and who prunes nodes asks for all that have none.
"""

from django.db import migrations

# As in 0010: rows are looked for by a list of keys, whatever the statistics say. Without bitmaps, which leave the entries of dead rows.
KEPT = (
    "SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off SET enable_mergejoin = off SET jit = off"
)
READING = f"{KEPT} SET enable_hashjoin = off"
WRITING = f"{KEPT} SET enable_nestloop = off"

FINISH = f"""
-- Whether there may be somebody who can be let in when these sessions, all of these tenants, have ended. With settings of its own, since
-- plans are kept that are made here.
CREATE FUNCTION voice_may_gain(tenants bigint[], sessions uuid[]) RETURNS boolean LANGUAGE plpgsql {READING} AS $$
DECLARE
    look constant json := voice_first_waiters(tenants, sessions, 1);
BEGIN
    RETURN look ->> 'waiters' IS NOT NULL OR look ->> 'cut' IS NOT NULL OR look ->> 'others' IS NOT NULL;
END $$;

-- ``ends``, by columns: session, node that must have it or null, reason, detail, actor, the event's detail or null, and the state after it for
-- one that is starting, active or reconnecting; null where the reason does not end such a one. A column that is the same for all of them is
-- null, its value is in the last array. Returns the sessions that it ended; null: none, since somebody may gain by it.
CREATE FUNCTION voice_finish(ends text[]) RETURNS json LANGUAGE plpgsql {WRITING} AS $$
#variable_conflict use_column
DECLARE
    ids constant uuid[] := ends[1];
    shared constant text[] := ends[10];
    at_node constant uuid := shared[2];
    in_all constant jsonb := shared[6];
    tenants bigint[];
    backends bigint[];
    number bigint;
    now timestamptz;
    done bigint;
    changed bigint;
    counted bigint;
    freed json;
BEGIN
    SELECT array_agg(DISTINCT s.tenant_id ORDER BY s.tenant_id), array_agg(DISTINCT s.backend_id ORDER BY s.backend_id) INTO tenants, backends
        FROM (SELECT * FROM sessions_app_slot WHERE session_id = ANY(ids) OFFSET 0) AS s;
    IF tenants IS NULL THEN
        RETURN '[]';
    END IF;
    PERFORM pg_advisory_xact_lock(key) FROM unnest(ARRAY(SELECT (x'766f1'::bigint << 44) + id FROM unnest(tenants) AS id)
        || ARRAY(SELECT (x'766f2'::bigint << 44) + id FROM unnest(backends) AS id)) AS key;
    -- Shared: what is given back here cannot take anything above a cap, and waits for whoever counts what is in use.
    PERFORM pg_advisory_xact_lock_shared(x'766f3'::bigint << 44);
    IF EXISTS (SELECT FROM sessions_app_capacity WHERE queued > 0) AND voice_may_gain(tenants, ids) THEN
        RETURN NULL;
    END IF;
    number := nextval('voice_ledger_seq');
    now := clock_timestamp();
    WITH v AS MATERIALIZED (
        SELECT id, coalesce(of_node, at_node) AS of_node, coalesce(reason, shared[3]) AS reason, coalesce(detail, shared[4]) AS detail,
            coalesce(actor, shared[5]) AS actor, coalesce(told, in_all, '{{}}') AS told, coalesce(if_starting, shared[7]) AS if_starting,
            coalesce(if_active, shared[8]) AS if_active, coalesce(if_reconnecting, shared[9]) AS if_reconnecting
        FROM unnest(ids, ends[2]::uuid[], ends[3]::text[], ends[4]::text[], ends[5]::text[], ends[6]::jsonb[], ends[7]::text[],
            ends[8]::text[], ends[9]::text[])
        AS r(id, of_node, reason, detail, actor, told, if_starting, if_active, if_reconnecting)),
    freed AS (
        -- What no index is to be used for is in a CASE.
        DELETE FROM sessions_app_slot s USING v
        WHERE s.session_id = ANY(ids) AND s.session_id = v.id AND (v.of_node IS NULL OR s.node_id = v.of_node)
            AND CASE WHEN s.tenant_id = ANY(tenants) AND s.backend_id = ANY(backends) THEN CASE s.state
                WHEN 'starting' THEN v.if_starting WHEN 'active' THEN v.if_active ELSE v.if_reconnecting END END IS NOT NULL
        RETURNING s.session_id AS id, s.tenant_id AS tenant, s.backend_id AS backend, s.node_id AS node, s.state AS old, v.reason, v.detail,
            v.actor, v.told, CASE s.state WHEN 'starting' THEN v.if_starting WHEN 'active' THEN v.if_active ELSE v.if_reconnecting END AS new),
    recorded AS (
        UPDATE sessions_app_session s SET state = f.new, reason = f.reason, detail = f.detail, node_id = f.node, backend_id = f.backend,
            ended_at = now
        FROM freed f WHERE s.id = ANY(ids) AND s.id = f.id AND s.state = f.old RETURNING 1),
    told AS (
        INSERT INTO sessions_app_sessionevent (session_id, old, new, reason, node_id, actor, detail, tenant_id, backend_id, seq, at)
        SELECT id, old, new, reason, node, actor, told, tenant, backend, number, now FROM freed),
    less AS (
        SELECT 'tenant' AS scope, tenant AS ref, count(*) AS slots FROM freed GROUP BY tenant
        UNION ALL SELECT 'backend', backend, count(*) FROM freed GROUP BY backend),
    counted AS (
        UPDATE sessions_app_capacity c SET active = c.active - l.slots
        FROM less l WHERE c.scope IN ('tenant', 'backend') AND c.ref = ANY(tenants || backends) AND c.scope = l.scope AND c.ref = l.ref
        RETURNING 1)
    SELECT coalesce(json_agg(f.id), '[]'), count(*), (SELECT count(*) FROM recorded),
        (SELECT count(*) FROM counted) - (SELECT count(*) FROM less) INTO freed, done, changed, counted FROM freed f;
    PERFORM voice_expect(changed, done);
    PERFORM voice_expect(counted, 0);
    RETURN freed;
END $$;
"""


class Migration(migrations.Migration):
    dependencies = [("sessions_app", "0012_nobody_is_overtaken_unseen")]
    operations = [
        migrations.RemoveIndex(model_name="slot", name="slots_of_a_node"),
        migrations.RunSQL(FINISH, "DROP FUNCTION voice_finish(text[]); DROP FUNCTION voice_may_gain(bigint[], uuid[])"),
    ]
