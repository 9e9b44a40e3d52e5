"""Guards for the queue, who and why for changes of limits, and reservations that cannot exceed a backend's cap.

The numbers in the functions are those of ``services.ledger_sql``: an edit of a limit takes the lock of its scope.
"""

from django.db import migrations

OUTSIDE = "coalesce(current_setting('voice.ledger', true), '') <> 'on'"
COLUMNS = {
    "capacity": ("scope", "ref", "active", "queued"),
    "waiter": ("session_id", "tenant_id", '"user"', "pipeline", "transport", "backend_name", "node_id", "since", "place", "absent_until"),
}


def guard(table, verbs):
    name, on = f"voice_{table}", f"ON sessions_app_{table}"
    for verb in verbs:
        yield (
            f"CREATE TRIGGER {name}_{verb.lower()} BEFORE {verb} {on} FOR EACH STATEMENT WHEN ({OUTSIDE}) EXECUTE FUNCTION voice_refuse();"
        )
    changed = " OR ".join(f"OLD.{column} IS DISTINCT FROM NEW.{column}" for column in COLUMNS[table])
    yield f"CREATE TRIGGER {name}_update BEFORE UPDATE {on} FOR EACH ROW WHEN (({changed}) AND {OUTSIDE}) EXECUTE FUNCTION voice_refuse();"


FUNCTIONS = """
-- Where a tenant's reserved slots are: on the backend that its quota names, else on the only or the first one that it may use.
CREATE FUNCTION voice_reserved_on(tenant bigint, named text) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN named <> '' THEN (SELECT id FROM sessions_app_backend WHERE name = named)
    ELSE coalesce((SELECT min(backend_id) FROM sessions_app_backendaccess WHERE tenant_id = tenant),
                  (SELECT min(id) FROM sessions_app_backend WHERE enabled)) END
$$;

CREATE FUNCTION voice_check_reservations(backend bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    most integer;
    wanted bigint;
    called text;
BEGIN
    SELECT cap, name INTO most, called FROM sessions_app_backend WHERE id = backend;
    IF most IS NULL THEN RETURN; END IF;
    SELECT coalesce(sum(reserved), 0) INTO wanted FROM tenants_quota
    WHERE reserved > 0 AND voice_reserved_on(tenant_id, reserved_backend) = backend;
    IF wanted > most THEN
        RAISE EXCEPTION 'Reservations on backend % would be % slots, more than its cap of %.', called, wanted, most USING ERRCODE = 'VP003';
    END IF;
END $$;

CREATE OR REPLACE FUNCTION voice_limit_changed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    scope text := TG_ARGV[0];
    key bigint := TG_ARGV[1]::bigint << 44;
    ref bigint;
    before jsonb;
    after jsonb;
    backend bigint;
BEGIN
    IF TG_OP <> 'INSERT' THEN before := to_jsonb(OLD); END IF;
    IF TG_OP <> 'DELETE' THEN after := to_jsonb(NEW); END IF;
    ref := coalesce(after, before) ->> TG_ARGV[2];
    IF coalesce(before ->> 'secrets', '') <> coalesce(after ->> 'secrets', '') THEN
        before := before || '{"secrets": ""}'; after := after || '{"secrets": "changed"}';
    ELSE
        before := before - 'secrets'; after := after - 'secrets';
    END IF;
    IF before - 'updated_at' IS NOT DISTINCT FROM after - 'updated_at' THEN RETURN NULL; END IF;
    PERFORM pg_advisory_xact_lock(CASE scope WHEN 'platform' THEN key ELSE key + ref END);
    INSERT INTO sessions_app_limitchange (seq, scope, ref, old, new, at, db_user, source, actor, note)
    VALUES (nextval('voice_ledger_seq'), scope, ref, before, after, clock_timestamp(), current_user, TG_TABLE_NAME,
            left(coalesce(current_setting('voice.actor', true), ''), 150), left(coalesce(current_setting('voice.note', true), ''), 300));
    IF TG_TABLE_NAME = 'tenants_quota' AND (after ->> 'reserved')::int > 0
        AND (before ->> 'reserved' IS DISTINCT FROM after ->> 'reserved'
             OR before ->> 'reserved_backend' IS DISTINCT FROM after ->> 'reserved_backend') THEN
        backend := voice_reserved_on(ref, after ->> 'reserved_backend');
        IF backend IS NOT NULL THEN
            PERFORM pg_advisory_xact_lock((x'766f2'::bigint << 44) + backend);
            PERFORM voice_check_reservations(backend);
        END IF;
    ELSIF TG_TABLE_NAME = 'sessions_app_backend' AND TG_OP = 'UPDATE' AND before ->> 'cap' IS DISTINCT FROM after ->> 'cap' THEN
        PERFORM voice_check_reservations(ref);
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER voice_limit_changed AFTER INSERT OR UPDATE OR DELETE ON tenants_override FOR EACH ROW
    EXECUTE FUNCTION voice_limit_changed('tenant', '485105', 'tenant_id');
DROP TRIGGER voice_capacity_update ON sessions_app_capacity;
"""


class Migration(migrations.Migration):
    dependencies = [("sessions_app", "0005_queue"), ("tenants", "0002_overrides_and_reservations")]
    operations = [
        migrations.RunSQL(
            FUNCTIONS + "\n".join([*guard("capacity", ()), *guard("waiter", ("INSERT", "DELETE", "TRUNCATE"))]),
            migrations.RunSQL.noop,
        )
    ]
