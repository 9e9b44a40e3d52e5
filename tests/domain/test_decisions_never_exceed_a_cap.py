"""``decide`` under any world: no cap is ever exceeded, and each verdict is explained by its own limit vector."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from sessions_app.domain.admission import AT_CAPACITY, Limit, Verdict, choose_other_backend, decide
from sessions_app.domain.queueing import Waiter, promote
from sessions_app.domain.states import FINAL_STATES, MEANINGS, Reason, State
from sessions_app.domain.world import Attempt, Scope, World
from tests.domain.worlds import BACKENDS, TENANTS, USERS, any_world, attempt, attempts, copied, queues, tenant, view, world

SCOPE_OF = {
    Reason.USER_LIMIT: Scope.USER,
    Reason.SESSION_LIMIT: Scope.TENANT,
    Reason.BACKEND_LIMIT: Scope.BACKEND,
    Reason.PLATFORM_LIMIT: Scope.PLATFORM,
}


def within(before: int, got: int, limit: int | None) -> bool:
    return limit is None or got == 0 or before + got <= limit


@settings(max_examples=50)
@given(any_world, queues, attempts)
def test_no_cap_is_exceeded_whoever_waits_and_whatever_is_asked(made: World, waiting: list[Waiter], asked: list[Attempt]) -> None:
    before = copied(made)
    promoted = promote(made, waiting)
    verdicts = decide(made, asked)
    admitted = [(each, verdict) for each, verdict in zip(asked, verdicts, strict=True) if verdict.admitted]
    admitted += [(each.waiter.attempt, each.verdict) for each in promoted]
    backends = Counter(verdict.backend_id for _, verdict in admitted)
    tenants = Counter(each.tenant_id for each, _ in admitted)
    users = Counter((each.tenant_id, each.user) for each, _ in admitted)
    assert within(before.platform_used, len(admitted), before.platform_limit)
    for key, backend in before.backends.items():
        assert within(backend.used, backends[key], backend.cap)
        assert made.backends[key].used == backend.used + backends[key]
    for tenant_id, own in before.tenants.items():
        assert within(own.used, tenants[tenant_id], None if own.limit is None else own.limit + own.burst)
        assert made.tenants[tenant_id].used == own.used + tenants[tenant_id]
        bursts = sum(verdict.burst for each, verdict in admitted if each.tenant_id == tenant_id)
        assert within(own.used, tenants[tenant_id] - bursts, own.limit)
        for user in USERS:
            assert within(before.user_used.get((tenant_id, user), 0), users[tenant_id, user], own.user_limit)


@settings(max_examples=50)
@given(any_world, attempts)
def test_every_refusal_at_capacity_has_its_full_entry_in_the_vector(made: World, asked: list[Attempt]) -> None:
    for verdict in decide(made, asked):
        scope = SCOPE_OF.get(verdict.reason) if verdict.reason else None
        if scope is not None:
            assert [entry.full for entry in verdict.limits if entry.scope is scope] == [True]
            assert verdict.retry_after_s or verdict.queued
        if verdict.reason is Reason.QUEUE_FULL:
            assert any(entry.full for entry in verdict.limits)
        if verdict.admitted:
            assert not any(entry.full for entry in verdict.limits)
            assert {entry.scope for entry in verdict.limits} == set(Scope)
        assert not verdict.queued or verdict.reason in AT_CAPACITY


@settings(max_examples=50)
@given(any_world, attempts)
def test_who_is_admitted_is_on_a_backend_that_may_and_can_take_them(made: World, asked: list[Attempt]) -> None:
    for each, verdict in zip(asked, decide(made, asked), strict=True):
        if verdict.reason is not None:
            assert MEANINGS[verdict.reason].final is State.REJECTED
            assert State.REJECTED in FINAL_STATES
            continue
        assert_fits(made, each, verdict)
        assert not made.tenants[each.tenant_id].suspended


@settings(max_examples=50)
@given(any_world, attempts)
def test_a_move_fits_too_and_moves_no_other_count(made: World, asked: list[Attempt]) -> None:
    for each in asked:
        before = copied(made)
        verdict = choose_other_backend(made, each)
        assert (made.platform_used, made.tenants, made.user_used) == (before.platform_used, before.tenants, before.user_used)
        if verdict.admitted:
            assert_fits(made, each, verdict)
            assert verdict.backend_id is not None
            old = before.backends[verdict.backend_id]
            assert within(old.used, 1, old.cap)
            assert old.cap is None or old.used + 1 + old.reservations.kept_from(each.tenant_id) <= old.cap


@settings(max_examples=50)
@given(any_world, st.sampled_from(TENANTS), st.sampled_from(USERS), st.sampled_from(BACKENDS))
def test_a_release_undoes_what_a_slot_took(made: World, tenant_id: int, user: str, backend_id: int) -> None:
    before = copied(made)
    made.take(tenant_id=tenant_id, backend_id=backend_id, user=user)
    made.release(tenant_id=tenant_id, backend_id=backend_id, user=user)
    assert made.user_used.pop((tenant_id, user)) == before.user_used.pop((tenant_id, user), 0)
    assert (made.platform_used, made.tenants, made.user_used) == (before.platform_used, before.tenants, before.user_used)
    for key, backend in before.backends.items():
        assert (made.backends[key].used, made.backends[key].reservations.unused) == (backend.used, backend.reservations.unused)


def assert_fits(made: World, each: Attempt, verdict: Verdict) -> None:
    assert verdict.backend_id is not None
    backend = made.backends[verdict.backend_id]
    assert backend.id in made.tenants[each.tenant_id].backends
    assert backend.id not in each.exclude
    assert backend.healthy
    assert not backend.draining
    assert each.transport in backend.transports
    assert verdict.pipeline in backend.pipelines
    assert verdict.pipeline == each.pipeline or not each.pipeline
    assert backend.name == each.backend or not each.backend


def test_the_narrowest_full_scope_is_named() -> None:
    made = world([view(10)], [tenant(limit=0, user_limit=0)], platform_limit=0)
    (verdict,) = decide(made, [attempt()])
    assert verdict.reason is Reason.USER_LIMIT
    assert Limit(Scope.USER, 0, 0) in verdict.limits
