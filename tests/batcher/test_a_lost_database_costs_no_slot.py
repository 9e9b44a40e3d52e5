import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from sessions_app.domain.operations import Activate, Admitted, End, Suspend
from sessions_app.domain.states import Reason, State
from sessions_app.models import Session, SessionEvent, Slot
from sessions_app.runtime.batcher import Batcher
from sessions_app.runtime.database import in_thread
from sessions_app.selectors import verification
from sessions_app.services.exceptions import Unavailable
from tests.batcher.private_database import forget_connections, private_database
from tests.platform.instance import none_left
from tests.world import NODE, admit, make_backend, make_tenant
from voiceplatform.embedded import Postgres

AT_ONCE_S = 2.0
BACK_S = 20.0


@pytest.fixture
def private(tmp_path: Path, django_db_setup: None, django_db_blocker: Any) -> Iterator[Postgres]:
    with django_db_blocker.unblock(), private_database(tmp_path) as store:
        yield store


@pytest.fixture
def on_private(private: Postgres) -> Iterator[Batcher]:
    started = Batcher()
    started.start()
    yield started
    started.stop()


@pytest.mark.slow
async def test_while_the_database_is_away_admissions_are_refused_at_once_and_ends_are_written_when_it_is_back(
    private: Postgres, on_private: Batcher
) -> None:
    await in_thread(make_backend)
    tenant = await in_thread(make_tenant)
    ending, leaving = [await on_private.submit(admit(tenant)) for _ in range(2)]
    await on_private.submit(Activate(leaving.session_id, NODE))
    await asyncio.to_thread(kill, private)
    for _ in range(3):
        asked_at = time.monotonic()
        with pytest.raises(Unavailable):
            await asyncio.wait_for(on_private.submit(admit(tenant)), AT_ONCE_S)
        assert time.monotonic() - asked_at < AT_ONCE_S
    assert not on_private.connected
    kept = [on_private.ask(End(ending.session_id, Reason.COMPLETED)), on_private.ask(Suspend(leaving.session_id, NODE))]
    assert not any(each.done() for each in kept)

    await asyncio.to_thread(private.start)
    await asyncio.to_thread(forget_connections)
    assert await asyncio.wait_for(asyncio.gather(*map(asyncio.wrap_future, kept)), BACK_S) == [True, True]
    assert (await on_private.submit(admit(tenant))).verdict.admitted
    assert (await in_thread(Session.objects.get, pk=ending.session_id)).state == State.ENDED
    assert (await in_thread(Session.objects.get, pk=leaving.session_id)).state == State.RECONNECTING
    assert await in_thread(verification.discrepancies) == []


async def test_a_connection_cut_in_mid_flight_is_replaced_and_the_answer_is_right(batcher: Batcher, sql: psycopg.Connection[Any]) -> None:
    await in_thread(make_backend)
    tenant = await in_thread(make_tenant, max_concurrent_sessions=1)
    with sql.transaction():
        sql.execute("LOCK TABLE sessions_app_session IN SHARE MODE")
        asked = batcher.ask(admit(tenant))
        await until_it_waits(sql)
        cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'voiceplatform ledger'"
        assert sql.execute(f"{cut} AND datname = current_database()").fetchall() == [(True,)]
    answer = await asyncio.wait_for(asyncio.wrap_future(asked), BACK_S)
    assert isinstance(answer, Admitted)
    assert answer.verdict.admitted
    assert await in_thread(Slot.objects.count) == 1
    assert await in_thread(SessionEvent.objects.count) == 1
    assert (await batcher.submit(admit(tenant))).verdict.reason is Reason.SESSION_LIMIT
    assert await in_thread(verification.discrepancies) == []


async def test_a_wait_for_a_lock_that_takes_too_long_is_tried_again(batcher: Batcher, sql: psycopg.Connection[Any]) -> None:
    await in_thread(make_backend)
    tenant = await in_thread(make_tenant)
    with sql.transaction():
        sql.execute("LOCK TABLE sessions_app_session IN SHARE MODE")
        asked = batcher.ask(admit(tenant))
        await until_it_waits(sql)
        sql.execute(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'voiceplatform ledger'"
            " AND datname = current_database()"
        )
    answer = await asyncio.wait_for(asyncio.wrap_future(asked), BACK_S)
    assert isinstance(answer, Admitted)
    assert answer.verdict.admitted


def kill(store: Postgres) -> None:
    """Kill the server, and wait for its sessions' processes, which may answer once more before they notice."""
    server = psutil.Process(store.pid)
    family = [server, *server.children(recursive=True)]
    server.kill()
    assert none_left(family, BACK_S)


async def until_it_waits(sql: psycopg.Connection[Any]) -> None:
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'voiceplatform ledger' AND wait_event_type = 'Lock'"
        " AND datname = current_database()"
    )
    async with asyncio.timeout(BACK_S):
        while sql.execute(waiting).fetchall() != [(1,)]:
            sql.execute("SELECT pg_stat_clear_snapshot()")
            await asyncio.sleep(0)
