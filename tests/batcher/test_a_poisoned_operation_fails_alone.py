import asyncio
import logging
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from sessions_app.domain.operations import Admit, Admitted
from sessions_app.models import Session
from sessions_app.runtime.batcher import Batcher
from sessions_app.runtime.database import in_thread
from sessions_app.selectors import verification
from sessions_app.services.exceptions import Unavailable
from tests.world import admit, make_backend, make_tenant


@pytest.mark.parametrize("metadata", [{"name": "a\x00b"}, {"name": "\ud800"}, {"deep": {"\x00": 1}}])
async def test_what_postgresql_cannot_store_is_refused_and_the_others_of_its_batch_are_served(
    batcher: Batcher, sql: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture, metadata: dict[str, object]
) -> None:
    await in_thread(make_backend)
    tenant = await in_thread(make_tenant)
    good = [admit(tenant, f"user {n}") for n in range(5)]
    bad = Admit(admit(tenant).attempt, good[0].node_id, metadata)
    with caplog.at_level(logging.CRITICAL + 1):
        # Held back until all six are waiting, so that they are one batch.
        with sql.transaction():
            sql.execute("LOCK TABLE sessions_app_capacity IN ACCESS EXCLUSIVE MODE")
            first = batcher.ask(admit(tenant, "first"))
            futures = [batcher.ask(each) for each in (*good[:3], bad, *good[3:])]
        answers = await asyncio.gather(asyncio.wrap_future(first), *map(asyncio.wrap_future, futures), return_exceptions=True)
    assert isinstance(answers.pop(4), Unavailable)
    assert all(isinstance(each, Admitted) and each.verdict.admitted for each in answers)
    assert await in_thread(Session.objects.count) == 6
    assert await in_thread(verification.discrepancies) == []


async def test_a_user_that_cannot_be_stored_fails_before_anything_is_sent_and_the_next_is_served(
    batcher: Batcher, caplog: pytest.LogCaptureFixture
) -> None:
    await in_thread(make_backend)
    tenant = await in_thread(make_tenant)
    operation = admit(tenant)
    with caplog.at_level(logging.CRITICAL + 1), pytest.raises(Unavailable):
        await batcher.submit(replace(operation, attempt=replace(operation.attempt, user="a\x00b")))
    assert (await batcher.submit(admit(tenant))).verdict.admitted
