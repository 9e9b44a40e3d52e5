"""Who is refused before the ledger is asked leaves no record: each is counted, per second, tenant and reason."""

from typing import Any

import psycopg
import pytest
from django.db import Error as DatabaseError

from sessions_app.domain.states import Reason
from sessions_app.models import AttemptCount, Session
from sessions_app.runtime import refused
from sessions_app.runtime.database import in_thread
from sessions_app.services import refusals
from tests.calls import Closed, House, make_tenant


async def counted() -> list[tuple[int, str, int]]:
    rows = AttemptCount.objects.order_by("tenant_id", "reason", "second").values_list("tenant_id", "reason", "count")
    return await in_thread(list, rows)


async def test_a_credential_that_is_not_good_is_nobodys(home: House) -> None:
    for _ in range(3):
        client = home.connect("rubbish")
        await client.hears("session.rejected")
        await client.hears(Closed)
    await refused.write()
    rows = await counted()
    assert {row[:2] for row in rows} == {(0, "authentication_failed")}
    assert sum(row[2] for row in rows) == 3
    assert not await in_thread(Session.objects.exists)


async def test_a_process_that_drains_counts_for_the_tenant_that_it_refuses(home: House) -> None:
    tenant = await make_tenant()
    home.node.draining = True
    client = home.connect(home.token(tenant))
    assert (await client.hears("session.rejected"))["code"] == "node_draining"
    await refused.write()
    assert await counted() == [(tenant.pk, "node_draining", 1)]


async def test_what_could_not_be_written_is_written_later(committed_db: None, sql: psycopg.Connection[Any]) -> None:
    refused.note(Reason.AUTHENTICATION_FAILED)
    sql.execute("ALTER TABLE sessions_app_attemptcount RENAME TO elsewhere")
    try:
        with pytest.raises(DatabaseError):
            await refused.write()
    finally:
        sql.execute("ALTER TABLE elsewhere RENAME TO sessions_app_attemptcount")
    await refused.write()
    await refused.write()
    assert await counted() == [(0, "authentication_failed", 1)]


def test_a_tenant_that_is_gone_is_no_error(committed_db: None) -> None:
    refusals.count([(0.0, 12345, "unavailable", 2), (0.0, 0, "authentication_failed", 1)])
    assert list(AttemptCount.objects.values_list("tenant_id", "count")) == [(0, 1)]
