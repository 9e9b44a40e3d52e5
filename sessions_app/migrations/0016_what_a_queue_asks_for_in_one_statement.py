"""What the waiters of a tenant ask for is part of the look at the queue, where it was a function with statements of its own.

A look calls it for every tenant that waits, and to begin each of its statements took longer than to run it.
"""

from django.db import migrations

ASKS = """
-- What the waiters of a tenant ask for, each wish once: from one to the next by the index, whatever the length of the queue.
CREATE OR REPLACE FUNCTION voice_asks(tenant bigint) RETURNS TABLE (backend_name text, pipeline text, transport text)
LANGUAGE sql STABLE ROWS 2 AS $$
    WITH RECURSIVE asks AS (
        (SELECT w.backend_name, w.pipeline, w.transport FROM sessions_app_waiter w
            WHERE w.tenant_id = tenant ORDER BY w.backend_name, w.pipeline, w.transport LIMIT 1)
        UNION ALL
        SELECT next.backend_name, next.pipeline, next.transport FROM asks CROSS JOIN LATERAL (
            SELECT w.backend_name, w.pipeline, w.transport FROM sessions_app_waiter w
            WHERE w.tenant_id = tenant AND (w.backend_name, w.pipeline, w.transport) > (asks.backend_name, asks.pipeline, asks.transport)
            ORDER BY w.backend_name, w.pipeline, w.transport LIMIT 1) AS next)
    SELECT a.backend_name::text, a.pipeline::text, a.transport::text FROM asks AS a
$$;
"""


class Migration(migrations.Migration):
    dependencies = [("sessions_app", "0015_guards_look_behind_the_row")]
    operations = [migrations.RunSQL(ASKS, migrations.RunSQL.noop)]
