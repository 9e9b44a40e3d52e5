"""The ledger's sequence, the triggers that refuse every other writer, and the record of every change of a limit.

They guard against mistakes, not against the owner of the tables. Where the ledger writes they cost nothing: WHEN is false.
The numbers in ``voice_limit_changed`` are those of ``services.ledger_sql``: an edit of a limit takes the lock of its scope.
"""

from django.db import migrations

GUARDED = ("session", "slot", "capacity")
STATE_COLUMNS = {
    "session": "id, tenant_id, \"user\", state, reason, backend_id, node_id, limits, attempted_at, started_at, active_at, ended_at",
    "slot": "session_id, tenant_id, backend_id, \"user\", state, node_id, since, lease_until",
    "capacity": "scope, ref, active",
}
OUTSIDE = "coalesce(current_setting('voice.ledger', true), '') <> 'on'"

FUNCTIONS = """
CREATE SEQUENCE voice_ledger_seq;

CREATE FUNCTION voice_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on % is refused: state and capacity change only in the ledger', TG_OP, TG_TABLE_NAME USING ERRCODE = 'VP001';
END $$;

CREATE FUNCTION voice_expect(got bigint, wanted bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF got <> wanted THEN
        RAISE EXCEPTION 'a compare-and-set changed % rows instead of %: somebody wrote around the ledger', got, wanted USING ERRCODE = 'VP002';
    END IF;
END $$;

CREATE FUNCTION voice_limit_changed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    scope text := TG_ARGV[0];
    key bigint := TG_ARGV[1]::bigint << 44;
    ref bigint;
    before jsonb;
    after jsonb;
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
    INSERT INTO sessions_app_limitchange (seq, scope, ref, old, new, at, db_user)
    VALUES (nextval('voice_ledger_seq'), scope, ref, before, after, clock_timestamp(), current_user);
    RETURN NULL;
END $$;
"""


def guards() -> str:
    statements = []
    for table in GUARDED:
        name, on = f"voice_{table}", f"ON sessions_app_{table}"
        for verb in ("INSERT", "DELETE", "TRUNCATE"):
            statements.append(
                f"CREATE TRIGGER {name}_{verb.lower()} BEFORE {verb} {on} FOR EACH STATEMENT WHEN ({OUTSIDE}) EXECUTE FUNCTION voice_refuse();"
            )
        columns = STATE_COLUMNS[table]
        changed = " OR ".join(f"OLD.{c.strip()} IS DISTINCT FROM NEW.{c.strip()}" for c in columns.split(","))
        statements.append(
            f"CREATE TRIGGER {name}_update BEFORE UPDATE {on} FOR EACH ROW WHEN (({changed}) AND {OUTSIDE}) EXECUTE FUNCTION voice_refuse();"
        )
    for table in ("sessionevent", "limitchange"):
        name, on = f"voice_{table}", f"ON sessions_app_{table}"
        statements.append(f"CREATE TRIGGER {name}_update BEFORE UPDATE {on} FOR EACH ROW EXECUTE FUNCTION voice_refuse();")
        for verb in ("DELETE", "TRUNCATE"):
            statements.append(
                f"CREATE TRIGGER {name}_{verb.lower()} BEFORE {verb} {on} FOR EACH STATEMENT WHEN ({OUTSIDE}) EXECUTE FUNCTION voice_refuse();"
            )
    statements.append(
        f"CREATE TRIGGER voice_sessionevent_insert BEFORE INSERT ON sessions_app_sessionevent FOR EACH STATEMENT WHEN ({OUTSIDE})"
        " EXECUTE FUNCTION voice_refuse();"
    )
    # Only the trigger below writes a change of a limit.
    statements.append(
        "CREATE TRIGGER voice_limitchange_insert BEFORE INSERT ON sessions_app_limitchange FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0)"
        " EXECUTE FUNCTION voice_refuse();"
    )
    for table, scope, digit, ref in (
        ("tenants_quota", "tenant", 0x766F1, "tenant_id"),
        ("tenants_tenant", "tenant", 0x766F1, "id"),
        ("sessions_app_backend", "backend", 0x766F2, "id"),
        ("sessions_app_platform", "platform", 0x766F3, "id"),
    ):
        statements.append(
            f"CREATE TRIGGER voice_limit_changed AFTER INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW"
            f" EXECUTE FUNCTION voice_limit_changed('{scope}', '{digit}', '{ref}');"
        )
    return "\n".join(statements)


UNDO = """
DROP TRIGGER voice_limit_changed ON tenants_quota; DROP TRIGGER voice_limit_changed ON tenants_tenant;
DROP TRIGGER voice_limit_changed ON sessions_app_backend; DROP TRIGGER voice_limit_changed ON sessions_app_platform;
DROP FUNCTION voice_refuse CASCADE; DROP FUNCTION voice_limit_changed; DROP FUNCTION voice_expect; DROP SEQUENCE voice_ledger_seq;
"""


class Migration(migrations.Migration):
    dependencies = [("sessions_app", "0001_initial"), ("tenants", "0001_initial")]
    operations = [
        migrations.RunSQL(FUNCTIONS + guards(), UNDO),
        migrations.RunSQL("INSERT INTO sessions_app_platform (id) VALUES (1)", "DELETE FROM sessions_app_platform"),
    ]
