"""The guards of changed rows come behind the change, where they cost the ledger nothing.

For a trigger before a row's update PostgreSQL fetches and locks the row, and logs that, before it asks whether the trigger applies at all.
Behind it it asks first. What is raised there takes the change back as well.
"""

from django.db import migrations

# As in 0007.
STATE_COLUMNS = {
    "session": "id tenant_id user state reason backend_id node_id limits attempted_at started_at active_at ended_at",
    "slot": "session_id tenant_id backend_id user state node_id since lease_until",
    "capacity": "scope ref active queued",
    "waiter": "session_id tenant_id user pipeline transport backend_name node_id since place absent_until",
}


def guards(when: str) -> str:
    return "".join(
        f"DROP TRIGGER voice_{table}_update ON sessions_app_{table};\n"
        f"CREATE TRIGGER voice_{table}_update {when} UPDATE ON sessions_app_{table} FOR EACH ROW"
        " WHEN (coalesce(current_setting('voice.ledger', true), '') <> 'on')"
        f" EXECUTE FUNCTION voice_refuse_change({', '.join(repr(column) for column in columns.split())});\n"
        for table, columns in STATE_COLUMNS.items()
    )


class Migration(migrations.Migration):
    dependencies = [("sessions_app", "0014_what_rows_share_is_said_once")]
    operations = [migrations.RunSQL(guards("AFTER"), guards("BEFORE"))]
