"""``decide`` under any world: no cap is ever exceeded, and each verdict is explained by its own limit vector."""

import uuid
from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from sessions_app.domain.admission import Attempt, BackendView, Limit, Scope, TenantView, Verdict, World, choose_other_backend, decide
from sessions_app.domain.states import FINAL_STATES, MEANINGS, Reason, State

SCOPE_OF = {
    Reason.USER_LIMIT: Scope.USER,
    Reason.SESSION_LIMIT: Scope.TENANT,
    Reason.BACKEND_LIMIT: Scope.BACKEND,
    Reason.PLATFORM_LIMIT: Scope.PLATFORM,
}
TENANTS, BACKENDS, USERS = (1, 2), (10, 11, 12), ("ann", "bob")
limits = st.none() | st.integers(0, 6)
used = st.integers(0, 8)  # also above the limit: it may have been lowered meanwhile
names = st.frozensets(st.sampled_from(["s2s", "stt_tts"]))


@st.composite
def worlds(draw: st.DrawFn) -> World:
    backends = {
        each: BackendView(
            id=each,
            name=f"backend-{each}",
            cap=draw(limits),
            weight=draw(st.integers(0, 3)),
            used=draw(used),
            healthy=draw(st.booleans()),
            draining=draw(st.booleans()),
            pipelines=draw(names),
            transports=draw(st.frozensets(st.sampled_from(["websocket", "webrtc"]))),
        )
        for each in BACKENDS
    }
    tenants = {
        each: TenantView(
            id=each,
            suspended=draw(st.booleans()),
            limit=draw(limits),
            user_limit=draw(limits),
            used=draw(used),
            backends=draw(st.frozensets(st.sampled_from((*BACKENDS, 99)))),
        )
        for each in TENANTS
    }
    users = draw(st.dictionaries(st.tuples(st.sampled_from(TENANTS), st.sampled_from(USERS)), used))
    return World(draw(limits), draw(used), backends, tenants, users)


attempts = st.lists(
    st.builds(
        Attempt,
        session_id=st.builds(uuid.uuid4),
        tenant_id=st.sampled_from(TENANTS),
        user=st.sampled_from(USERS),
        pipeline=st.sampled_from(["", "s2s", "stt_tts"]),
        transport=st.sampled_from(["websocket", "webrtc"]),
        backend=st.sampled_from(["", "backend-10", "nobody"]),
        exclude=st.frozensets(st.sampled_from(BACKENDS)),
    ),
    max_size=20,
)


def copied(world: World) -> World:
    return World(
        world.platform_limit,
        world.platform_used,
        {key: replace(each) for key, each in world.backends.items()},
        {key: replace(each) for key, each in world.tenants.items()},
        dict(world.user_used),
    )


def within(before: int, got: int, limit: int | None) -> bool:
    return limit is None or got == 0 or before + got <= limit


@given(worlds(), attempts)
def test_no_cap_is_exceeded_whatever_is_asked(world: World, asked: list[Attempt]) -> None:
    before = copied(world)
    verdicts = decide(world, asked)
    admitted = [(attempt, verdict) for attempt, verdict in zip(asked, verdicts, strict=True) if verdict.admitted]
    backends = Counter(verdict.backend_id for _, verdict in admitted)
    tenants = Counter(attempt.tenant_id for attempt, _ in admitted)
    users = Counter((attempt.tenant_id, attempt.user) for attempt, _ in admitted)
    assert within(before.platform_used, len(admitted), before.platform_limit)
    for key, backend in before.backends.items():
        assert within(backend.used, backends[key], backend.cap)
        assert world.backends[key].used == backend.used + backends[key]
    for tenant_id, tenant in before.tenants.items():
        assert within(tenant.used, tenants[tenant_id], tenant.limit)
        assert world.tenants[tenant_id].used == tenant.used + tenants[tenant_id]
        for user in USERS:
            assert within(before.user_used.get((tenant_id, user), 0), users[tenant_id, user], tenant.user_limit)


@given(worlds(), attempts)
def test_every_refusal_at_capacity_has_its_full_entry_in_the_vector(world: World, asked: list[Attempt]) -> None:
    for verdict in decide(world, asked):
        scope = SCOPE_OF.get(verdict.reason) if verdict.reason else None
        if scope is not None:
            assert [entry.full for entry in verdict.limits if entry.scope is scope] == [True]
            assert verdict.retry_after_s
        if verdict.admitted:
            assert not any(entry.full for entry in verdict.limits)
            assert {entry.scope for entry in verdict.limits} == set(Scope)


@given(worlds(), attempts)
def test_who_is_admitted_is_on_a_backend_that_may_and_can_take_them(world: World, asked: list[Attempt]) -> None:
    for attempt, verdict in zip(asked, decide(world, asked), strict=True):
        if verdict.reason is not None:
            assert MEANINGS[verdict.reason].final is State.REJECTED
            assert State.REJECTED in FINAL_STATES
            continue
        assert_fits(world, attempt, verdict)
        assert not world.tenants[attempt.tenant_id].suspended


@given(worlds(), attempts)
def test_a_move_fits_too_and_moves_no_other_count(world: World, asked: list[Attempt]) -> None:
    for attempt in asked:
        before = copied(world)
        verdict = choose_other_backend(world, attempt)
        assert (world.platform_used, world.tenants, world.user_used) == (before.platform_used, before.tenants, before.user_used)
        if verdict.admitted:
            assert_fits(world, attempt, verdict)
            assert verdict.backend_id is not None
            assert within(before.backends[verdict.backend_id].used, 1, before.backends[verdict.backend_id].cap)


def assert_fits(world: World, attempt: Attempt, verdict: Verdict) -> None:
    assert verdict.backend_id is not None
    backend = world.backends[verdict.backend_id]
    assert backend.id in world.tenants[attempt.tenant_id].backends
    assert backend.id not in attempt.exclude
    assert backend.healthy
    assert not backend.draining
    assert attempt.transport in backend.transports
    assert verdict.pipeline in backend.pipelines
    assert verdict.pipeline == attempt.pipeline or not attempt.pipeline
    assert backend.name == attempt.backend or not attempt.backend


def view(number: int, **values: object) -> BackendView:
    defaults = BackendView(number, f"backend-{number}", 10, 1, 0, True, False, frozenset({"s2s"}), frozenset({"websocket"}))
    for name, value in values.items():
        setattr(defaults, name, value)
    return defaults


def choices(backends: list[BackendView], count: int) -> Counter[int | None]:
    tenant = TenantView(1, False, None, None, 0, frozenset(each.id for each in backends))
    world = World(None, 0, {each.id: each for each in backends}, {1: tenant})
    return Counter(each.backend_id for each in decide(world, [Attempt(uuid.uuid4(), 1, "ann")] * count))


def test_sessions_are_shared_out_by_weight() -> None:
    assert choices([view(1, weight=3, cap=100), view(2, weight=1, cap=100)], 40) == {1: 30, 2: 10}


def test_a_backend_of_weight_0_is_the_last_resort() -> None:
    assert choices([view(1, weight=0), view(2)], 15) == {2: 10, 1: 5}


def test_the_narrowest_full_scope_is_named() -> None:
    world = World(0, 0, {1: view(1)}, {1: TenantView(1, False, 0, 0, 0, frozenset({1}))})
    (verdict,) = decide(world, [Attempt(uuid.uuid4(), 1, "ann")])
    assert verdict.reason is Reason.USER_LIMIT
    assert Limit(Scope.USER, 0, 0) in verdict.limits
