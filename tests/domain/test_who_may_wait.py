"""Who finds no room waits where the quota lets them, and who waits is asked before anybody new."""

import pytest
from hypothesis import given, settings

from sessions_app.domain.admission import admit, decide
from sessions_app.domain.queueing import Waiter, promote, suspended
from sessions_app.domain.states import Reason
from sessions_app.domain.world import BackendView, TenantView, World
from tests.domain.worlds import any_world, attempt, copied, queue_of, queues, tenant, view, world


@pytest.mark.parametrize(
    ("backend", "own", "platform_limit", "reason"),
    [
        (view(10, cap=0), tenant(max_queue_length=1), None, Reason.BACKEND_LIMIT),
        (view(10), tenant(max_queue_length=1, limit=0), None, Reason.SESSION_LIMIT),
        (view(10), tenant(max_queue_length=1, user_limit=0), None, Reason.USER_LIMIT),
        (view(10), tenant(max_queue_length=1), 0, Reason.PLATFORM_LIMIT),
    ],
)
def test_one_waits_with_the_reason_and_the_next_finds_the_queue_full(
    backend: BackendView, own: TenantView, platform_limit: int | None, reason: Reason
) -> None:
    made = world([backend], [own], platform_limit=platform_limit)
    first, second = decide(made, [attempt(), attempt()])
    assert (first.reason, first.queued, first.admitted) == (reason, True, False)
    assert (second.reason, second.queued) == (Reason.QUEUE_FULL, False)
    assert second.retry_after_s
    assert made.tenants[1].queued == 1


@pytest.mark.parametrize(
    ("backend", "own"),
    [
        (view(10, healthy=False), tenant(max_queue_length=None)),
        (view(10, draining=True), tenant(max_queue_length=None)),
        (view(10, pipelines=frozenset()), tenant(max_queue_length=None)),
        (view(10, cap=0), tenant(max_queue_length=None, suspended=True)),
        (view(10, cap=0), tenant(max_queue_length=0)),
    ],
)
def test_nobody_waits_for_what_waiting_does_not_mend_nor_without_a_queue(backend: BackendView, own: TenantView) -> None:
    (verdict,) = decide(world([backend], [own]), [attempt()])
    assert not verdict.admitted
    assert not verdict.queued
    assert own.queued == 0


def test_a_queue_without_a_limit_takes_everybody() -> None:
    made = world([view(10, cap=0)], [tenant(max_queue_length=None)])
    assert all(each.queued for each in decide(made, [attempt()] * 50))
    assert made.tenants[1].queued == 50


@settings(max_examples=50)
@given(any_world, queues)
def test_after_the_promotions_nobody_who_is_here_could_be_let_in(made: World, waiting: list[Waiter]) -> None:
    promoted = {each.waiter.attempt.session_id for each in promote(made, waiting)}
    left = [each for each in waiting if each.attempt.session_id not in promoted]
    for each in left:
        if each.present:
            assert not admit(copied(made), each.attempt).admitted


def test_a_new_attempt_does_not_overtake_and_is_not_held_up_by_who_could_not_have_the_slot() -> None:
    full, free = view(10, used=10), view(11)
    made = world(
        [full, free],
        [tenant(1, (10, 11), limit=3, used=3, queued=1, max_queue_length=9), tenant(2, (10, 11)), tenant(3, (10,), max_queue_length=9)],
    )
    waiting = [*queue_of(1, 1), *queue_of(3, 1)]
    assert promote(made, waiting) == []
    same, other, blocked = decide(made, [attempt(1), attempt(2), attempt(3)])
    assert (same.queued, other.backend_id, blocked.queued) == (True, 11, True)
    made.release(tenant_id=1, backend_id=11, user="ann")
    assert [each.waiter.attempt.tenant_id for each in promote(made, waiting)] == [1]


def test_who_waits_at_a_suspended_tenant_is_told_and_never_promoted() -> None:
    waiting = [*queue_of(1, 2), *queue_of(2, 1), *queue_of(9, 1)]
    made = world([view(10)], [tenant(1, suspended=True), tenant(2)])
    assert suspended(made, waiting) == waiting[:2]
    assert [each.waiter for each in promote(made, waiting)] == waiting[2:3]
