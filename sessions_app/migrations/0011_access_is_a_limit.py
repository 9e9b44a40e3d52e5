"""Who may use which backend is a limit: its edits take the locks, are recorded and checked like those of any other.

The triggers that record limits fire once a statement now, so that whatever it changes, its locks are taken in the ledger's order: tenants,
then backends. All of them are taken before the record has its number, also those of the backends that a reservation leaves or comes to: a
batch with a lower number has then decided without the edit, one with a higher number with it. The numbers in the functions are those of
``services.ledger_sql``.

What stood before is recorded as of now, with a mark: up to it a replay cannot know where reservations stood.
"""

from django.db import migrations

FUNCTIONS = """
-- Changes as they are recorded: what changed nothing is left out, secrets are never told. ``pairs`` has [old, new] of each row; a row that
-- goes from one tenant to another is gone there and new here.
CREATE FUNCTION voice_changes(pairs jsonb, which text) RETURNS TABLE (n bigint, ref bigint, before jsonb, after jsonb)
LANGUAGE sql IMMUTABLE AS $$
    SELECT p.n, (coalesce(said.after, said.before) ->> which)::bigint, said.before, said.after
    FROM jsonb_array_elements(pairs) WITH ORDINALITY AS p(pair, n)
    CROSS JOIN LATERAL (SELECT nullif(p.pair -> 0, 'null') AS old, nullif(p.pair -> 1, 'null') AS new) AS r
    CROSS JOIN LATERAL (
        SELECT r.old AS before, r.new AS after WHERE r.old IS NULL OR r.new IS NULL OR r.old -> which = r.new -> which
        UNION ALL SELECT r.old, NULL WHERE r.old -> which <> r.new -> which
        UNION ALL SELECT NULL, r.new WHERE r.old -> which <> r.new -> which) AS part
    CROSS JOIN LATERAL (SELECT coalesce(part.before ->> 'secrets', '') <> coalesce(part.after ->> 'secrets', '') AS secrets) AS changed
    CROSS JOIN LATERAL (
        SELECT CASE WHEN changed.secrets THEN part.before || '{"secrets": ""}' ELSE part.before - 'secrets' END AS before,
               CASE WHEN changed.secrets THEN part.after || '{"secrets": "changed"}' ELSE part.after - 'secrets' END AS after) AS said
    WHERE said.before - 'updated_at' IS DISTINCT FROM said.after - 'updated_at'
$$;

-- Backends that changes of this table concern; ``gains``: more may be reserved there than before.
CREATE FUNCTION voice_concerned(source text, pairs jsonb, which text) RETURNS TABLE (backend bigint, gains boolean)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    other bigint;
    place_before bigint;
    place_after bigint;
BEGIN
    IF source = 'tenants_quota' THEN
        RETURN QUERY
            WITH moved AS (
                SELECT c.ref, c.before, c.after FROM voice_changes(pairs, which) AS c
                WHERE c.before ->> 'reserved' IS DISTINCT FROM c.after ->> 'reserved'
                   OR c.before ->> 'reserved_backend' IS DISTINCT FROM c.after ->> 'reserved_backend')
            SELECT voice_reserved_on(m.ref, m.before ->> 'reserved_backend'), false FROM moved AS m WHERE (m.before ->> 'reserved')::int > 0
            UNION ALL
            SELECT voice_reserved_on(m.ref, m.after ->> 'reserved_backend'), true FROM moved AS m WHERE (m.after ->> 'reserved')::int > 0;
    ELSIF source = 'sessions_app_backendaccess' THEN
        RETURN QUERY
            WITH changes AS MATERIALIZED (SELECT c.ref, c.before, c.after FROM voice_changes(pairs, which) AS c),
            places AS MATERIALIZED (
                SELECT coalesce(
                    (SELECT min(old.backend_id) FROM (
                        SELECT a.backend_id FROM sessions_app_backendaccess a WHERE a.tenant_id = q.tenant_id
                            AND a.id NOT IN (SELECT (c.after ->> 'id')::bigint FROM changes AS c WHERE c.ref = q.tenant_id AND c.after IS NOT NULL)
                        UNION ALL SELECT (c.before ->> 'backend_id')::bigint FROM changes AS c WHERE c.ref = q.tenant_id) AS old),
                    (SELECT min(b.id) FROM sessions_app_backend b WHERE b.enabled)) AS before,
                    voice_reserved_on(q.tenant_id, '') AS after
                FROM tenants_quota q WHERE q.reserved > 0 AND q.reserved_backend = '' AND q.tenant_id IN (SELECT c.ref FROM changes AS c))
            SELECT (coalesce(c.after, c.before) ->> 'backend_id')::bigint, false FROM changes AS c
            UNION ALL SELECT (c.before ->> 'backend_id')::bigint, false FROM changes AS c WHERE c.after IS NOT NULL
            UNION ALL SELECT p.before, false FROM places AS p
            UNION ALL SELECT p.after, p.after IS DISTINCT FROM p.before FROM places AS p;
    ELSIF source = 'sessions_app_backend' THEN
        -- Where tenants reserve by default: on the first that is enabled. Rows are recorded one by one, so that it may be ``other`` in between.
        other := (SELECT min(b.id) FROM sessions_app_backend b WHERE b.enabled AND b.id NOT IN (SELECT c.ref FROM voice_changes(pairs, which) AS c));
        SELECT least(other, min(c.ref) FILTER (WHERE (c.before ->> 'enabled')::boolean)),
               least(other, min(c.ref) FILTER (WHERE (c.after ->> 'enabled')::boolean))
        INTO place_before, place_after FROM voice_changes(pairs, which) AS c;
        RETURN QUERY
            SELECT c.ref, c.before ->> 'cap' IS DISTINCT FROM c.after ->> 'cap' OR c.before ->> 'name' IS DISTINCT FROM c.after ->> 'name'
                OR (c.ref = place_after AND place_after IS DISTINCT FROM place_before)
            FROM voice_changes(pairs, which) AS c
            UNION ALL
            SELECT other, place_after = other AND place_after IS DISTINCT FROM place_before
            WHERE EXISTS (SELECT FROM voice_changes(pairs, which) AS c WHERE c.ref < other
                AND (c.before ->> 'enabled')::boolean IS DISTINCT FROM (c.after ->> 'enabled')::boolean);
    END IF;
END $$;

CREATE FUNCTION voice_limits_changed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    scope constant text := TG_ARGV[0];
    which constant text := TG_ARGV[1];
    pairs jsonb;
    refs bigint[];
    held bigint[] := '{}';
    wanted bigint[];
    one bigint;
BEGIN
    IF TG_OP = 'INSERT' THEN
        pairs := (SELECT jsonb_agg(jsonb_build_array(NULL, to_jsonb(n)) ORDER BY n.id) FROM new_rows AS n);
    ELSIF TG_OP = 'DELETE' THEN
        pairs := (SELECT jsonb_agg(jsonb_build_array(to_jsonb(o), NULL) ORDER BY o.id) FROM old_rows AS o);
    ELSE
        pairs := (SELECT jsonb_agg(jsonb_build_array(to_jsonb(o), to_jsonb(n)) ORDER BY id) FROM old_rows AS o FULL JOIN new_rows AS n USING (id));
    END IF;
    refs := ARRAY(SELECT DISTINCT c.ref FROM voice_changes(pairs, which) AS c ORDER BY c.ref);
    IF cardinality(refs) = 0 THEN RETURN NULL; END IF;
    IF scope = 'tenant' THEN
        FOREACH one IN ARRAY refs LOOP
            PERFORM pg_advisory_xact_lock((x'766f1'::bigint << 44) + one);
        END LOOP;
    ELSIF scope = 'platform' THEN
        PERFORM pg_advisory_xact_lock(x'766f3'::bigint << 44);
    END IF;
    LOOP  -- again: while a lock was waited for, its last holder may have moved what is reserved by default
        wanted := ARRAY(SELECT DISTINCT c.backend FROM voice_concerned(TG_TABLE_NAME, pairs, which) AS c
                        WHERE c.backend <> ALL(held) ORDER BY c.backend);
        EXIT WHEN cardinality(wanted) = 0;
        FOREACH one IN ARRAY wanted LOOP
            PERFORM pg_advisory_xact_lock((x'766f2'::bigint << 44) + one);
        END LOOP;
        held := held || wanted;
    END LOOP;
    INSERT INTO sessions_app_limitchange (seq, scope, ref, old, new, at, db_user, source, actor, note)
    SELECT nextval('voice_ledger_seq'), scope, c.ref, c.before, c.after, clock_timestamp(), current_user, TG_TABLE_NAME,
           left(coalesce(current_setting('voice.actor', true), ''), 150), left(coalesce(current_setting('voice.note', true), ''), 300)
    FROM (SELECT * FROM voice_changes(pairs, which) AS c ORDER BY c.n, c.after IS NOT NULL) AS c;
    FOREACH one IN ARRAY ARRAY(SELECT DISTINCT c.backend FROM voice_concerned(TG_TABLE_NAME, pairs, which) AS c
                               WHERE c.gains AND c.backend IS NOT NULL ORDER BY c.backend) LOOP
        PERFORM voice_check_reservations(one);
    END LOOP;
    RETURN NULL;
END $$;
"""

TABLES = (
    ("tenants_tenant", "tenant", "id"),
    ("tenants_quota", "tenant", "tenant_id"),
    ("tenants_override", "tenant", "tenant_id"),
    ("sessions_app_backend", "backend", "id"),
    ("sessions_app_backendaccess", "tenant", "tenant_id"),
    ("sessions_app_platform", "platform", "id"),
)
ROWS = {"insert": "NEW TABLE AS new_rows", "update": "OLD TABLE AS old_rows NEW TABLE AS new_rows", "delete": "OLD TABLE AS old_rows"}
# In the order in which the forms write them: an edit under way is waited for, so that its number is below the mark.
LOCK = f"LOCK TABLE {', '.join(table for table, _, _ in TABLES)} IN SHARE ROW EXCLUSIVE MODE;\n"
TRIGGERS = "".join(
    f"CREATE TRIGGER voice_limits_{verb} AFTER {verb.upper()} ON {table} REFERENCING {rows} FOR EACH STATEMENT"
    f" EXECUTE FUNCTION voice_limits_changed('{scope}', '{ref}');\n"
    for table, scope, ref in TABLES
    for verb, rows in ROWS.items()
)
OLD_TRIGGERS = "".join(f"DROP TRIGGER IF EXISTS voice_limit_changed ON {table};\n" for table, _, _ in TABLES)

# Nobody but a trigger adds to the record, and a platform without tenants has nothing to begin with.
BEGINNING = """
ALTER TABLE sessions_app_limitchange DISABLE TRIGGER voice_limitchange_insert;
INSERT INTO sessions_app_limitchange (seq, scope, ref, old, new, at, db_user, source, note)
SELECT nextval('voice_ledger_seq'), 'tenant', a.tenant_id, NULL, to_jsonb(a), clock_timestamp(), current_user, 'sessions_app_backendaccess',
       'As it was when its record began.'
FROM sessions_app_backendaccess a ORDER BY a.id;
INSERT INTO sessions_app_limitchange (seq, scope, ref, old, new, at, db_user, source, note)
SELECT nextval('voice_ledger_seq'), 'access', 0, NULL, '{}', clock_timestamp(), current_user, 'sessions_app_backendaccess',
       'From here on it is recorded who may use which backend.'
WHERE EXISTS (SELECT FROM tenants_tenant);
ALTER TABLE sessions_app_limitchange ENABLE TRIGGER voice_limitchange_insert;
"""


class Migration(migrations.Migration):
    dependencies = [("sessions_app", "0010_rows_by_columns"), ("tenants", "0003_say_what_a_limit_means")]
    operations = [
        migrations.RunSQL(
            f"{LOCK}{FUNCTIONS}{OLD_TRIGGERS}{TRIGGERS}DROP FUNCTION voice_limit_changed();\n{BEGINNING}", migrations.RunSQL.noop
        )
    ]
