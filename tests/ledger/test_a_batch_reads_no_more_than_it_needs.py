"""Plans are kept, so those that were made while the tables were empty must not read all of what has come since."""

from typing import Any

import psycopg

from sessions_app.domain.operations import Activate, Admit, End, Operation, Suspend
from sessions_app.domain.states import Reason
from sessions_app.services.connections import open_connection
from sessions_app.services.ledger import Ledger
from tests.world import NODE, admit, ledger_mark, make_backend, make_tenant

OTHERS = 3_000
TABLES = (
    "sessions_app_session", "sessions_app_sessionevent", "sessions_app_slot", "sessions_app_waiter", "sessions_app_ratebucket",
    "sessions_app_capacity", "tenants_tenant", "tenants_quota",
)  # fmt: skip
# Rows of what was there long before, one of each kind for each number; what it stands for does not matter here.
SEED = (
    """INSERT INTO sessions_app_session (id, tenant_id, "user", state, reason, detail, pipeline, transport, metadata, limits, attempted_at)
       SELECT gen_random_uuid(), 0, 'old', 'ended', '', '', '', '', '{}', '[]', now() FROM generate_series(1, %s)""",
    """INSERT INTO sessions_app_slot (session_id, tenant_id, backend_id, "user", state, since)
       SELECT gen_random_uuid(), 0, 0, 'other', 'active', now() FROM generate_series(1, %s)""",
    """INSERT INTO sessions_app_waiter (session_id, tenant_id, "user", pipeline, transport, backend_name, place, since)
       SELECT gen_random_uuid(), 0, 'other', '', 'websocket', '', n, now() FROM generate_series(1, %s) AS n""",
    """INSERT INTO sessions_app_ratebucket (tenant_id, "user", tokens, at)
       SELECT 0, n, 1, now() FROM generate_series(1, %s) AS n""",
    """INSERT INTO sessions_app_capacity (scope, ref, active) SELECT 'tenant', -n, 0 FROM generate_series(1, %s) AS n""",
)


def test_a_batch_reads_no_more_when_the_tables_have_grown(committed_db: None, sql: psycopg.Connection[Any]) -> None:
    make_backend()
    tenant = make_tenant(max_concurrent_sessions=None, sessions_per_minute=10_000)
    sql.execute(f"VACUUM ANALYZE {', '.join(TABLES)}")
    with open_connection(name="test ledger", prepare=True) as connection:
        ledger = Ledger(connection)
        live_once(ledger, [admit(tenant, f"user {n}") for n in range(8)])  # the plans are made here
        with ledger_mark(sql):
            for statement in SEED:
                sql.execute(statement, [OTHERS])
        before = read(connection, sql)
        live_once(ledger, [admit(tenant, f"user {n}") for n in range(8)])
        after = read(connection, sql)
    assert {table: after[table] - before[table] for table in TABLES if after[table] - before[table] > OTHERS // 2} == {}


def test_slots_that_were_given_back_are_not_read_again_and_again(committed_db: None, sql: psycopg.Connection[Any]) -> None:
    make_backend()
    tenant = make_tenant(max_concurrent_sessions=None)
    with open_connection(name="test ledger", prepare=True) as connection:
        ledger = Ledger(connection)
        ledger.apply([admit(tenant, f"other {n}") for n in range(64)])
        with ledger_mark(sql):
            sql.execute(SEED[1], [20 * OTHERS])
            sql.execute("DELETE FROM sessions_app_slot WHERE tenant_id = 0")
        sql.execute("ANALYZE sessions_app_slot")  # few rows on many pages: what is planned from now on is planned for these
        counts = [read(connection, sql)["sessions_app_slot"]]
        for _ in range(40):
            live_once(ledger, [admit(tenant, f"user {n}") for n in range(8)])
            counts.append(read(connection, sql)["sessions_app_slot"])
    assert counts[-1] - counts[-6] < 2 * (counts[5] - counts[0])


def live_once(ledger: Ledger, asked: list[Admit]) -> None:
    ids = [each.attempt.session_id for each in asked]
    lives: tuple[list[Operation], ...] = (
        [*asked],
        [Activate(each, NODE) for each in ids],
        [Suspend(each, NODE) for each in ids],
        [End(each, Reason.COMPLETED) for each in ids],
    )
    for operations in lives:
        results = ledger.apply(operations)
        assert all(results)


def read(ledgers: psycopg.Connection[Any], sql: psycopg.Connection[Any]) -> dict[str, int]:
    """Return how many rows and index entries were read of each table up to now."""
    ledgers.execute("SELECT pg_stat_force_next_flush()")
    sql.execute("SELECT pg_stat_clear_snapshot()")
    rows = sql.execute(
        "SELECT relname, seq_tup_read + coalesce((SELECT sum(idx_tup_read) FROM pg_stat_user_indexes i WHERE i.relid = t.relid), 0)"
        " FROM pg_stat_user_tables t WHERE relname = ANY(%s)",
        [list(TABLES)],
    ).fetchall()
    return {name: int(count) for name, count in rows}
