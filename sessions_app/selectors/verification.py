"""Do counters, slots and sessions agree? Read in one snapshot, so it may run on a live platform.

Each check is one statement that finds nothing when all is well. Limit: sessions in a slot state are found by a scan of the records,
which have no index on the state on purpose.
"""

from typing import Final

from django.db import connection, transaction

CHECKS: Final = {
    "counter of tenant {} says {} in use, its slots are {}": """
        SELECT coalesce(c.ref, s.tenant_id), coalesce(c.active, 0), coalesce(s.n, 0)
        FROM (SELECT ref, active FROM sessions_app_capacity WHERE scope = 'tenant') c
        FULL JOIN (SELECT tenant_id, count(*) n FROM sessions_app_slot GROUP BY 1) s ON s.tenant_id = c.ref
        WHERE coalesce(c.active, 0) <> coalesce(s.n, 0) ORDER BY 1""",
    "counter of backend {} says {} in use, its slots are {}": """
        SELECT coalesce(c.ref, s.backend_id), coalesce(c.active, 0), coalesce(s.n, 0)
        FROM (SELECT ref, active FROM sessions_app_capacity WHERE scope = 'backend') c
        FULL JOIN (SELECT backend_id, count(*) n FROM sessions_app_slot GROUP BY 1) s ON s.backend_id = c.ref
        WHERE coalesce(c.active, 0) <> coalesce(s.n, 0) ORDER BY 1""",
    "session {} is {}, its slot is {}": """
        SELECT coalesce(r.id, s.session_id), r.state, coalesce(s.state, 'missing')
        FROM sessions_app_session r FULL JOIN sessions_app_slot s ON s.session_id = r.id
        WHERE (s.session_id IS NOT NULL OR r.state IN ('starting', 'active', 'reconnecting'))
          AND (s.session_id IS NULL OR r.state <> s.state OR r.tenant_id <> s.tenant_id OR r."user" <> s."user"
               OR r.backend_id IS DISTINCT FROM s.backend_id) ORDER BY 1""",
    "session {} is {}, its last event says {}": """
        SELECT r.id, r.state, coalesce(e.new, 'nothing') FROM sessions_app_session r
        LEFT JOIN LATERAL (SELECT new FROM sessions_app_sessionevent WHERE session_id = r.id ORDER BY id DESC LIMIT 1) e ON true
        WHERE r.state IS DISTINCT FROM e.new ORDER BY 1""",
}
MOST: Final = 100


def discrepancies() -> list[str]:
    """Return one sentence for each thing that does not agree, at most ``MOST`` for each check; empty when all is well."""
    found: list[str] = []
    with transaction.atomic(durable=True), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        for sentence, statement in CHECKS.items():
            cursor.execute(f"{statement} LIMIT {MOST}")
            found += [sentence.format(*row) for row in cursor.fetchall()]
    return found
