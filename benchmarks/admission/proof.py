"""What the benchmark's database says of what the product's ledger did there: that it did all of it, and let nobody in above a limit.

Counts from the events, in the order of the ledger's transactions, beside ``verify_capacity --history``, which does the same in its own way.
Refuses: to believe what the clients counted.
"""

from dataclasses import dataclass
from typing import Any, Final

from django.db import connection

from benchmarks.harness.errors import BenchmarkError
from sessions_app.selectors import verification

# After each transaction: what is in use, and the limit that every scope of this benchmark has for as long as it runs.
_MOST: Final = """
WITH steps AS (
    SELECT seq, tenant_id, backend_id, "user", sum(change) AS change FROM (
        SELECT e.seq, e.tenant_id, e.backend_id, s."user",
               (e.new IN ('starting', 'active', 'reconnecting'))::int - (e.old IN ('starting', 'active', 'reconnecting'))::int AS change
        FROM sessions_app_sessionevent e JOIN sessions_app_session s ON s.id = e.session_id) AS changes
    GROUP BY seq, GROUPING SETS ((), (tenant_id), (backend_id), (tenant_id, "user")) HAVING sum(change) <> 0),
used AS (
    SELECT tenant_id, backend_id, "user",
           sum(change) OVER (PARTITION BY tenant_id, backend_id, "user" ORDER BY seq) AS used FROM steps)
SELECT CASE WHEN u."user" IS NOT NULL THEN 'user' WHEN u.tenant_id IS NOT NULL THEN 'tenant' WHEN u.backend_id IS NOT NULL THEN 'backend'
       ELSE 'platform' END AS scope, max(used)::int, max(limits.most), greatest(max(used - limits.most), 0)::int
FROM used u LEFT JOIN tenants_quota q ON q.tenant_id = u.tenant_id LEFT JOIN sessions_app_backend b ON b.id = u.backend_id
CROSS JOIN sessions_app_platform p
CROSS JOIN LATERAL (SELECT CASE WHEN u."user" IS NOT NULL THEN q.max_sessions_per_user WHEN u.tenant_id IS NOT NULL
    THEN q.max_concurrent_sessions WHEN u.backend_id IS NOT NULL THEN b.cap ELSE p.max_concurrent_sessions END AS most) AS limits
GROUP BY 1 ORDER BY 1"""

# Each statement counts what must not be.
_WRONG: Final = {
    "sessions whose events are not one of each change": """
        SELECT count(*) FROM (SELECT s.id FROM sessions_app_session s LEFT JOIN sessions_app_sessionevent e ON e.session_id = s.id
        GROUP BY s.id, s.state HAVING count(e.id) <> CASE s.state WHEN 'rejected' THEN 1 ELSE 2 END) AS odd""",
    "sessions without a limit vector of all four scopes": """
        SELECT count(*) FROM sessions_app_session WHERE jsonb_array_length(limits) <> 4 OR EXISTS (
            SELECT FROM jsonb_array_elements(limits) AS each WHERE each ->> 'limit' IS NULL)""",
    "slots and places that are left": "SELECT (SELECT count(*) FROM sessions_app_slot) + (SELECT count(*) FROM sessions_app_waiter)",
    "counters that are not 0": "SELECT count(*) FROM sessions_app_capacity WHERE active <> 0 OR queued <> 0",
    "tenants that let sessions in without a rate": """
        SELECT count(DISTINCT s.tenant_id) FROM sessions_app_session s WHERE s.state <> 'rejected' AND NOT EXISTS (
            SELECT FROM sessions_app_ratebucket r JOIN tenants_quota q USING (tenant_id)
            WHERE r.tenant_id = s.tenant_id AND r."user" = '' AND r.tokens < q.sessions_per_minute)""",
    "guards that are switched off": "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'voice_%' AND tgenabled <> 'O'",
    "settings that make no commit durable": """
        SELECT count(*) FROM pg_settings WHERE (name IN ('fsync', 'synchronous_commit', 'full_page_writes') AND setting <> 'on')""",
}


@dataclass(frozen=True, slots=True)
class Proof:
    """What was found.

    Attributes:
        used: Of each scope, its name, the most that was ever in use in one of its kind, the highest limit, and by how much the one was
            ever above the other.
        sessions: Records, ``events``: of their changes.
        findings: Sentences of ``verify_capacity --history``.
    """

    used: list[tuple[str, int, int, int]]
    sessions: int
    events: int
    findings: list[str]

    @property
    def over_admitted(self) -> int:
        """By how much a limit was exceeded at most."""
        return max((each[3] for each in self.used), default=0)


def check(*, pairs: int) -> Proof:
    """Look at every row.

    Args:
        pairs: That the clients saw acknowledged.

    Raises:
        BenchmarkError: the ledger did not do all that it should have, so that the figures mean nothing.
    """
    wrong = [f"{count} {what}" for what, statement in _WRONG.items() if (count := _rows(statement)[0][0])]
    admitted = _rows("SELECT count(*) FROM sessions_app_session WHERE state = 'ended'")[0][0]
    if admitted < pairs:
        wrong.append(f"{pairs} pairs, {admitted} sessions")
    if wrong:
        raise BenchmarkError(f"the rows are wrong: {'; '.join(wrong)}.")
    replayed = verification.history()
    return Proof(
        used=[(row[0], row[1], row[2], row[3]) for row in _rows(_MOST)],
        sessions=admitted,
        events=replayed.events,
        findings=replayed.findings,
    )


def _rows(statement: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall())
