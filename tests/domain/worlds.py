"""Worlds for the decision, made by hand or by hypothesis."""

import uuid
from collections.abc import Iterable
from dataclasses import replace

from hypothesis import strategies as st

from sessions_app.domain.admission import Attempt, BackendView, TenantView, World
from sessions_app.domain.queueing import Waiter
from sessions_app.domain.rates import Bucket, RateKey
from sessions_app.domain.reservations import Reservations

TENANTS, BACKENDS, USERS = (1, 2, 3), (10, 11, 12), ("ann", "bob")


def view(number: int, **values: object) -> BackendView:
    made = BackendView(number, f"backend-{number}", 10, 1, 0, True, False, frozenset({"s2s"}), frozenset({"websocket"}))
    return replace(made, **values)  # type: ignore[arg-type]  # a typo is a TypeError


def tenant(number: int = 1, backends: Iterable[int] = (10,), **values: object) -> TenantView:
    return replace(TenantView(number, False, None, None, 0, frozenset(backends)), **values)  # type: ignore[arg-type]


def world(backends: Iterable[BackendView], tenants: Iterable[TenantView], **values: object) -> World:
    made = World(None, sum(each.used for each in backends), {each.id: each for each in backends}, {each.id: each for each in tenants})
    return replace(made, **values)  # type: ignore[arg-type]


def attempt(tenant_id: int = 1, user: str = "ann", **values: object) -> Attempt:
    return replace(Attempt(uuid.uuid4(), tenant_id, user), **values)  # type: ignore[arg-type]


def queue_of(tenant_id: int, count: int, *, since: float = 0.0) -> list[Waiter]:
    return [Waiter(attempt(tenant_id, f"user {number}"), since, number) for number in range(count)]


def copied(before: World) -> World:
    return replace(
        before,
        backends={key: replace(each, reservations=each.reservations.copy()) for key, each in before.backends.items()},
        tenants={key: replace(each) for key, each in before.tenants.items()},
        user_used=dict(before.user_used),
        rates={key: replace(each) for key, each in before.rates.items()},
        spent_rates=set(before.spent_rates),
    )


limits = st.none() | st.integers(0, 6)
used = st.integers(0, 8)  # also above the limit: it may have been lowered meanwhile
names = st.frozensets(st.sampled_from(["s2s", "stt_tts"]))
reservations = st.builds(
    Reservations, st.dictionaries(st.sampled_from(TENANTS), st.tuples(st.integers(0, 4), st.integers(0, 5))), others=st.integers(0, 2)
)


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
            burst_below=draw(st.sampled_from([0.0, 0.5, 0.8, 1.0])),
            reservations=draw(reservations),
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
            burst=draw(st.integers(0, 3)),
            rate=draw(limits),
            user_rate=draw(limits),
            priority=draw(st.integers(0, 3)),
            weight=draw(st.integers(1, 3)),
            max_queue_length=draw(limits),
            queued=draw(st.integers(0, 3)),
        )
        for each in TENANTS
    }
    users = draw(st.dictionaries(st.tuples(st.sampled_from(TENANTS), st.sampled_from(USERS)), used))
    buckets = st.builds(Bucket, st.floats(0, 6), st.floats(0, 120))
    keys: list[RateKey] = [("tenant", 1), ("tenant", 2), ("user", 1, "ann")]
    rates = draw(st.dictionaries(st.sampled_from(keys), buckets))
    return World(draw(limits), draw(used), backends, tenants, users, 100.0, rates)


@st.composite
def open_worlds(draw: st.DrawFn) -> World:
    """Worlds in which much fits: what is rare in ``worlds`` is common here."""
    made = draw(worlds())
    for backend in made.backends.values():
        backend.healthy, backend.draining = True, False
        backend.pipelines, backend.transports = frozenset({"s2s", "stt_tts"}), frozenset({"websocket", "webrtc"})
    for each in made.tenants.values():
        each.suspended, each.backends = False, each.backends | {draw(st.sampled_from(BACKENDS))}
    return replace(made, platform_limit=draw(st.none() | st.integers(4, 12)))


attempts = st.lists(
    st.builds(
        Attempt,
        session_id=st.builds(uuid.uuid4),
        tenant_id=st.sampled_from(TENANTS),
        user=st.sampled_from(USERS),
        pipeline=st.sampled_from(["", "s2s", "stt_tts"]),
        transport=st.sampled_from(["websocket", "webrtc"]),
        backend=st.sampled_from(["", "", "backend-10", "nobody"]),
        exclude=st.frozensets(st.sampled_from(BACKENDS)),
    ),
    max_size=20,
)


@st.composite
def queues(draw: st.DrawFn) -> list[Waiter]:
    waiting = draw(attempts)
    return [
        Waiter(
            replace(each, exclude=frozenset()),
            draw(st.sampled_from([0.0, 10.0, 39.9, 40.0, 70.0, 99.0])),
            place,
            draw(st.integers(0, 4)) > 0,
        )
        for place, each in enumerate(waiting)
    ]
