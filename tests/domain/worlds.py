"""Worlds for the decision, made by hand or by hypothesis."""

import uuid
from collections.abc import Iterable
from dataclasses import replace

from hypothesis import strategies as st

from sessions_app.domain.queueing import Waiter
from sessions_app.domain.rates import Bucket, RateKey
from sessions_app.domain.reservations import Reservations
from sessions_app.domain.world import Attempt, BackendView, TenantView, World

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


transports = st.frozensets(st.sampled_from(["websocket", "webrtc"]))
keys: list[RateKey] = [("tenant", 1), ("tenant", 2), ("user", 1, "ann")]


# Built once: a strategy costs far more to make than to draw from.
def backends(*, well: bool) -> st.SearchStrategy[dict[int, BackendView]]:
    def one(number: int) -> st.SearchStrategy[BackendView]:
        return st.builds(
            BackendView,
            id=st.just(number),
            name=st.just(f"backend-{number}"),
            cap=limits,
            weight=st.integers(0, 3),
            used=used,
            healthy=st.just(True) if well else st.booleans(),
            draining=st.just(False) if well else st.booleans(),
            pipelines=st.just(frozenset({"s2s", "stt_tts"})) if well else names,
            transports=st.just(frozenset({"websocket", "webrtc"})) if well else transports,
            burst_below=st.sampled_from([0.0, 0.5, 0.8, 1.0]),
            reservations=reservations,
        )

    return st.fixed_dictionaries({each: one(each) for each in BACKENDS})


def tenants(*, well: bool) -> st.SearchStrategy[dict[int, TenantView]]:
    def one(number: int) -> st.SearchStrategy[TenantView]:
        return st.builds(
            TenantView,
            id=st.just(number),
            suspended=st.just(False) if well else st.booleans(),
            limit=limits,
            user_limit=limits,
            used=used,
            backends=st.frozensets(st.sampled_from((*BACKENDS, 99)), min_size=2 if well else 0),
            burst=st.integers(0, 3),
            rate=limits,
            user_rate=limits,
            priority=st.integers(0, 3),
            weight=st.integers(1, 3),
            max_queue_length=limits,
            queued=st.integers(0, 3),
        )

    return st.fixed_dictionaries({each: one(each) for each in TENANTS})


def worlds(*, well: bool = False) -> st.SearchStrategy[World]:
    """Any world; ``well``: one in which much fits, since what is rare in the others is common there."""
    return st.builds(
        World,
        platform_limit=st.none() | st.integers(4, 12) if well else limits,
        platform_used=used,
        backends=backends(well=well),
        tenants=tenants(well=well),
        user_used=st.dictionaries(st.tuples(st.sampled_from(TENANTS), st.sampled_from(USERS)), used),
        now=st.just(100.0),
        rates=st.dictionaries(st.sampled_from(keys), st.builds(Bucket, st.floats(0, 6), st.floats(0, 120))),
    )


any_world = worlds() | worlds(well=True)
open_world = worlds(well=True)
one_attempt = st.builds(
    Attempt,
    session_id=st.builds(uuid.uuid4),
    tenant_id=st.sampled_from(TENANTS),
    user=st.sampled_from(USERS),
    pipeline=st.sampled_from(["", "s2s", "stt_tts"]),
    transport=st.sampled_from(["websocket", "webrtc"]),
    backend=st.sampled_from(["", "", "backend-10", "nobody"]),
    exclude=st.frozensets(st.sampled_from(BACKENDS), max_size=2),
)
attempts = st.lists(one_attempt, max_size=20)
one_waiter = st.builds(
    Waiter,
    one_attempt.map(lambda each: replace(each, exclude=frozenset())),
    since=st.sampled_from([0.0, 10.0, 39.9, 40.0, 70.0, 99.0]),
    present=st.sampled_from([True, True, True, False]),
)
queues = st.lists(one_waiter, max_size=20).map(lambda waiting: [replace(each, place=place) for place, each in enumerate(waiting)])
