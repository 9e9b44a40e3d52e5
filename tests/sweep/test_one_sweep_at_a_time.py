import uuid
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import psycopg
from django.db import connection

from sessions_app.domain.operations import Activate, Suspend
from sessions_app.models import Slot
from sessions_app.selectors import verification
from sessions_app.services import nodes, sweep
from sessions_app.services.ledger import Ledger
from sessions_app.services.sweep import Swept
from tests.world import admit, admitted, ledger_mark, make_backend, make_tenant

NODE = uuid.uuid4()
SESSIONS = 8


def past_their_grace(ledger: Ledger, sql: psycopg.Connection[Any]) -> list[uuid.UUID]:
    make_backend()
    nodes.register(node_id=NODE, name="here", pid=1)
    tenant = make_tenant()
    ids = [admitted(each).session_id for each in ledger.apply([admit(tenant, node_id=NODE) for _ in range(SESSIONS)])]
    ledger.apply([Activate(each, NODE) for each in ids])
    assert ledger.apply([Suspend(each, NODE) for each in ids]) == [True] * SESSIONS
    with ledger_mark(sql):
        sql.execute("UPDATE sessions_app_slot SET lease_until = clock_timestamp() - interval '10 s'")
    return ids


def test_of_several_at_once_each_slot_is_ended_once(ledger: Ledger, sql: psycopg.Connection[Any]) -> None:
    past_their_grace(ledger, sql)
    start = Barrier(4)

    def run(holder: str) -> Swept:
        start.wait()
        try:
            return sweep.sweep(holder=holder)
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as threads:
        swept = list(threads.map(run, "abcd"))
    assert sum(each.ended for each in swept) == SESSIONS
    assert sum(each == Swept() for each in swept) == 3
    assert not Slot.objects.exists()
    assert verification.discrepancies() == []


def test_while_one_holds_the_claim_another_does_nothing_until_it_expires(ledger: Ledger, sql: psycopg.Connection[Any]) -> None:
    past_their_grace(ledger, sql)
    sql.execute(
        "INSERT INTO sessions_app_claim (name, holder, until, done_at, steady_since)"
        " VALUES ('sweep', 'dead', clock_timestamp() + interval '3 s', clock_timestamp(), clock_timestamp())"
    )
    assert sweep.sweep(holder="b") == Swept()
    sql.execute("UPDATE sessions_app_claim SET until = clock_timestamp()")
    assert sweep.sweep(holder="b") == Swept(ended=SESSIONS)


def test_a_slot_that_cannot_be_ended_keeps_no_other_one(ledger: Ledger, sql: psycopg.Connection[Any], caplog: Any) -> None:
    ids = past_their_grace(ledger, sql)
    with ledger_mark(sql):
        sql.execute("UPDATE sessions_app_session SET state = 'ended' WHERE id = %s", (ids[0],))
    assert sweep.sweep(holder="a") == Swept(ended=SESSIONS - 1)
    assert list(Slot.objects.values_list("pk", flat=True)) == [ids[0]]
    assert "verify_capacity" in caplog.text
