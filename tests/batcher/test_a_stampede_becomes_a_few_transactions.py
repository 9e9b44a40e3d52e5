import asyncio
from typing import Any

import psycopg

from sessions_app.domain.operations import Admit, Admitted, End
from sessions_app.domain.states import Reason
from sessions_app.models import SessionEvent
from sessions_app.runtime.batcher import Batcher
from sessions_app.runtime.database import in_thread
from sessions_app.selectors import verification
from tests.world import admit, make_backend, make_tenant

CALLERS = 500


def transactions(sql: psycopg.Connection[Any]) -> int:
    return int(sql.execute("SELECT count(DISTINCT seq) FROM sessions_app_sessionevent").fetchall()[0][0])


async def test_a_lone_caller_is_answered_in_a_transaction_of_its_own(batcher: Batcher, sql: psycopg.Connection[Any]) -> None:
    await in_thread(make_backend)
    tenant = await in_thread(make_tenant)
    answer = await asyncio.wait_for(batcher.submit(admit(tenant)), 5)
    assert answer.verdict.admitted
    assert await batcher.submit(End(answer.session_id, Reason.COMPLETED)) is True
    assert transactions(sql) == 2


async def test_500_callers_at_once_are_answered_rightly_in_few_transactions(
    batcher: Batcher, sql: psycopg.Connection[Any], settings: Any
) -> None:
    settings.VOICE_REFUSALS_RECORDED_PER_S = CALLERS
    await in_thread(make_backend, cap=None)
    tenant = await in_thread(make_tenant, max_concurrent_sessions=100, sessions_per_minute=None)
    answers: list[Admitted] = await asyncio.gather(*(batcher.submit(admit(tenant, f"user {n}")) for n in range(CALLERS)))
    assert sum(each.verdict.admitted for each in answers) == 100
    assert [each.session_id for each in answers if each.verdict.admitted] == [each.session_id for each in answers][:100]
    assert {each.verdict.reason for each in answers} == {None, Reason.SESSION_LIMIT}
    assert await in_thread(SessionEvent.objects.count) == CALLERS
    assert transactions(sql) <= CALLERS / 20
    assert await in_thread(verification.discrepancies) == []


async def test_callers_on_several_loops_and_threads_share_one_batcher(batcher: Batcher) -> None:
    await in_thread(make_backend)
    tenant = await in_thread(make_tenant)
    answers = await asyncio.gather(*(asyncio.to_thread(asyncio.run, _ask(batcher, admit(tenant))) for _ in range(4)))
    assert all(each.verdict.admitted for each in answers)


async def _ask(batcher: Batcher, operation: Admit) -> Admitted:
    return await batcher.submit(operation)


async def test_a_caller_that_went_away_disturbs_nobody(batcher: Batcher) -> None:
    await in_thread(make_backend)
    tenant = await in_thread(make_tenant)
    gone = batcher.ask(admit(tenant))
    gone.cancel()
    assert (await batcher.submit(admit(tenant))).verdict.admitted
