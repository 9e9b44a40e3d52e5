"""A place is how many would be promoted before, plus one: the same as letting them in one after the other."""

from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessions_app.domain.queueing import Place, Waiter, estimate, positions, promote
from sessions_app.domain.world import Scope, World
from tests.domain.worlds import TENANTS, USERS, any_world, attempt, copied, queue_of, queues, tenant, view, world


@st.composite
def full_houses(draw: st.DrawFn) -> tuple[World, list[Waiter]]:
    """One backend without room, and those who wait for it."""
    limits = st.none() | st.integers(0, 6)
    tenants = [
        tenant(each, used=draw(st.integers(0, 5)), weight=draw(st.integers(1, 3)), priority=draw(st.integers(0, 2)),
               limit=draw(limits), user_limit=draw(limits))
        for each in TENANTS
    ]  # fmt: skip
    who = st.tuples(st.sampled_from(TENANTS), st.sampled_from(USERS), st.sampled_from([0.0, 20.0, 50.0, 90.0]))
    waiting = [Waiter(attempt(each, user), since, place) for place, (each, user, since) in enumerate(draw(st.lists(who, max_size=25)))]
    return world([view(10, cap=3, used=3)], tenants, now=100.0), waiting


@settings(max_examples=60)
@given(full_houses())
def test_places_are_the_order_in_which_slots_that_become_free_one_by_one_are_given(house: tuple[World, list[Waiter]]) -> None:
    made, waiting = house
    before = copied(made)
    places = positions(made, waiting)
    assert (made.tenants, made.user_used, made.platform_used) == (before.tenants, before.user_used, before.platform_used)
    assert made.backends[10].used == before.backends[10].used
    order: dict[UUID, int] = {}
    for step in range(len(waiting)):
        made.backends[10].cap = 4 + step
        left = [each for each in waiting if each.attempt.session_id not in order]
        order |= {each.waiter.attempt.session_id: step + 1 for each in promote(made, left)}
    for each in waiting:
        place = places[each.attempt.session_id]
        if each.attempt.session_id in order:
            assert place == Place(order[each.attempt.session_id], Scope.BACKEND)
        else:
            assert place.waits_for in {Scope.TENANT, Scope.USER}


@settings(max_examples=50)
@given(any_world, queues)
def test_places_go_up_from_1_and_never_down_behind_somebody_of_the_same_tenant_and_user(made: World, waiting: list[Waiter]) -> None:
    places = positions(made, waiting)
    assert set(places) == {each.attempt.session_id for each in waiting if not made.tenants[each.attempt.tenant_id].suspended}
    seen: dict[tuple[object, ...], int] = {}
    for each in sorted(waiting, key=lambda one: (one.since, one.place)):
        if each.attempt.session_id in places:
            key = each.attempt.tenant_id, each.attempt.user, each.attempt.pipeline, each.attempt.transport, each.attempt.backend
            place = places[each.attempt.session_id]
            assert 1 <= place.position <= len(waiting)
            assert place.position > seen.get(key, 0)
            seen[key] = place.position


def places_of(made: World, *lines: list[Waiter]) -> list[list[int]]:
    places = positions(made, [each for line in lines for each in line])
    return [[places[each.attempt.session_id].position for each in line] for line in lines]


def test_two_tenants_at_a_full_backend_are_mixed_by_weight() -> None:
    made = world([view(10, cap=0)], [tenant(1, weight=3), tenant(2)])
    assert places_of(made, queue_of(1, 6), queue_of(2, 2)) == [[1, 3, 4, 6, 7, 8], [2, 5]]


def test_those_who_wait_for_another_backend_do_not_count() -> None:
    made = world([view(10, cap=0), view(11, cap=0), view(12, cap=0)], [tenant(1, (10,)), tenant(2, (11,)), tenant(3, (11, 12))])
    assert places_of(made, queue_of(1, 2), queue_of(2, 2), queue_of(3, 1, since=9)) == [[1, 2], [1, 3], [2]]


def test_a_full_platform_makes_all_of_them_one_queue() -> None:
    made = world([view(10), view(11)], [tenant(1, (10,)), tenant(2, (11,))], platform_limit=0)
    assert places_of(made, queue_of(1, 2), queue_of(2, 2)) == [[1, 3], [2, 4]]
    assert {each.waits_for for each in positions(made, queue_of(1, 2)).values()} == {Scope.PLATFORM}


def test_those_of_a_tenant_or_user_at_its_own_limit_count_among_themselves() -> None:
    made = world([view(10)], [tenant(1, limit=1, used=1), tenant(2, limit=1, used=1)])
    assert places_of(made, queue_of(1, 3), queue_of(2, 2)) == [[1, 2, 3], [1, 2]]
    made = world([view(10, cap=0)], [tenant(1, user_limit=1, used=1)], user_used={(1, "ann"): 1})
    ann, bob = [Waiter(attempt(1, "ann"), 0.0, each) for each in range(2)], [Waiter(attempt(1, "bob"), 1.0)]
    assert places_of(made, ann, bob) == [[1, 2], [1]]


def test_who_is_at_a_limit_of_its_own_before_a_full_backend_waits_for_both() -> None:
    made = world([view(10, cap=0)], [tenant(1, limit=2, used=1), tenant(2)])
    assert places_of(made, queue_of(1, 2), queue_of(2, 1)) == [[2, 3], [1]]


def test_who_is_only_at_a_limit_of_its_own_does_not_wait_for_others() -> None:
    made = world([view(10)], [tenant(1, limit=1, used=1), tenant(2)])
    away = [replace(each, present=False) for each in queue_of(2, 1)]
    assert places_of(made, queue_of(1, 2, since=9), away) == [[1, 2], [1]]


def test_who_is_away_or_whose_backend_is_ill_keeps_the_place() -> None:
    made = world([view(10, healthy=False)], [tenant(1)])
    first, second = queue_of(1, 2)
    assert places_of(made, [replace(first, present=False), second]) == [[1, 2]]


@pytest.mark.parametrize(
    ("position", "releases", "over_s", "seconds"), [(1, 2, 60.0, None), (1, 30, 60.0, 2.0), (12, 3, 60.0, 240.0), (1, 9, 0.0, None)]
)
def test_the_wait_is_estimated_from_what_was_measured_and_unknown_without(
    position: int, releases: int, over_s: float, seconds: float | None
) -> None:
    assert estimate(position, releases=releases, over_s=over_s) == seconds
