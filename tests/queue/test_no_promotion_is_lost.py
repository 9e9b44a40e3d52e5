"""A slot that becomes free while somebody joins the queue: whoever comes second finds what the first one left."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
from django.db import connection as django_connection

from sessions_app.domain.operations import End
from sessions_app.domain.states import Reason, State
from sessions_app.models import Slot
from sessions_app.services.ledger import Ledger
from sessions_app.services.ledger_sql import TENANT_KEY
from tests.world import admit, admitted, make_backend, make_tenant, new_ledger, until_wait


def test_a_slot_freed_right_behind_who_joins_the_queue_is_given_to_them(ledger: Ledger, sql: psycopg.Connection[Any]) -> None:
    make_backend()
    tenant = make_tenant(max_concurrent_sessions=1, max_queue_length=None)
    live = admitted(ledger.apply([admit(tenant, "live")])[0]).session_id
    joins = admit(tenant, "joins")
    with new_ledger() as other, ThreadPoolExecutor(2) as threads:
        with sql.transaction():
            sql.execute("SELECT pg_advisory_xact_lock(%s)", (TENANT_KEY + tenant.pk,))
            joining = threads.submit(other.apply, [joins])
            until_wait(sql, 1)
            ending = threads.submit(ledger.apply, [End(live, Reason.COMPLETED)])
            until_wait(sql, 2)
        assert admitted(joining.result()[0]).state is State.QUEUED
        assert ending.result() == [True]
    assert [each.session_id for each in ledger.promoted] == [joins.attempt.session_id]
    assert Slot.objects.get().pk == joins.attempt.session_id
    django_connection.close()
