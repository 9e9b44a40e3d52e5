"""Priority with age, then the smallest share of the weight, then first come; nobody is blocked by who waits for something else."""

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessions_app.domain.admission import admit
from sessions_app.domain.queueing import AGEING_S, Promotion, Waiter, effective_priority, promote
from sessions_app.domain.reservations import Reservations
from sessions_app.domain.states import Reason
from sessions_app.domain.world import World
from tests.domain.worlds import any_world, attempt, copied, queue_of, queues, tenant, view, world


def one_by_one(made: World, waiting: list[Waiter]) -> list[tuple[Waiter, int | None]]:
    """Promote in the plainest way: of all who wait, again and again, the first in the order who fits."""

    def order(each: Waiter) -> tuple[float, float, float, int, int]:
        own = made.tenants[each.attempt.tenant_id]
        steps = (made.now - each.since) // 30
        return -(own.priority + steps), own.used / own.weight, each.since, each.place, own.id

    left, promoted = list(waiting), []
    while True:
        for each in sorted(left, key=order):
            if each.present and (verdict := admit(made, each.attempt)).admitted:
                left.remove(each)
                promoted.append((each, verdict.backend_id))
                break
        else:
            return promoted


@settings(max_examples=50)
@given(any_world, queues)
def test_promotion_is_what_asking_everybody_again_and_again_would_give(made: World, waiting: list[Waiter]) -> None:
    plain = copied(made)
    expected = one_by_one(plain, waiting)
    queued = {key: each.queued for key, each in made.tenants.items()}
    promoted = promote(made, random.Random(0).sample(waiting, len(waiting)))
    assert [(each.waiter, each.verdict.backend_id) for each in promoted] == expected
    assert made.user_used == plain.user_used
    gone = Counter(each.waiter.attempt.tenant_id for each in promoted)
    assert {key: each.queued for key, each in made.tenants.items()} == {key: max(0, count - gone[key]) for key, count in queued.items()}
    assert not made.spent_rates


def tenants_of(promoted: list[Promotion]) -> list[int]:
    return [each.waiter.attempt.tenant_id for each in promoted]


def test_the_higher_priority_goes_first_until_the_lower_has_waited_a_step_longer() -> None:
    made = world([view(10, cap=1)], [tenant(1, priority=1), tenant(2, priority=0)], now=100.0)
    assert tenants_of(promote(copied(made), [*queue_of(2, 1, since=71), *queue_of(1, 1, since=90)])) == [1]
    # One step more is as high a priority; then nobody has a share in use, and who came first goes first.
    assert tenants_of(promote(copied(made), [*queue_of(2, 1, since=70), *queue_of(1, 1, since=90)])) == [2]


def test_a_tenant_that_uses_less_of_its_weight_goes_first() -> None:
    made = world([view(10, cap=20, used=12)], [tenant(1, used=9, weight=3), tenant(2, used=2), tenant(3, used=3)], now=1.0)
    waiting = [*queue_of(1, 2), *queue_of(2, 2), *queue_of(3, 2)]
    # 9/3, 2/1, 3/1; then 9/3, 3/1, 3/1, where first come decides, then the tenant's number.
    assert tenants_of(promote(made, waiting)) == [2, 1, 3, 2, 1, 3]


@given(st.integers(0, 9), st.integers(0, 9), st.floats(0, 100_000), st.floats(0, 100_000))
def test_nobody_is_passed_for_ever_by_those_who_come_later(low: int, high: int, since: float, later: float) -> None:
    now = max(since, later) + 1000.0
    first, second = Waiter(attempt(1), since), Waiter(attempt(2), since + later)
    lead = effective_priority(tenant(2, priority=high), second, now) - effective_priority(tenant(1, priority=low), first, now)
    assert lead <= max(0, high - low)
    assert lead < 0 or later < AGEING_S * (max(0, high - low) + 1)


def test_the_lowest_priority_moves_on_while_the_highest_never_stops_coming() -> None:
    made = world([view(10, cap=1, used=1)], [tenant(1, priority=0), tenant(2, priority=9, used=1)], now=0.0)
    waiting = queue_of(1, 1)
    for second in range(1000):
        made.now = float(second)
        waiting.append(Waiter(attempt(2), made.now, second))
        made.release(tenant_id=2, backend_id=10, user="ann")
        (promotion,) = promote(made, waiting)
        waiting.remove(promotion.waiter)
        if promotion.waiter.attempt.tenant_id == 1:
            break
    assert 9 * AGEING_S <= made.now <= 10 * AGEING_S


@pytest.mark.parametrize("seed", range(3))
def test_weights_of_3_and_1_share_what_is_promoted_3_to_1(seed: int) -> None:
    chance = random.Random(seed)
    made = world([view(10, cap=40)], [tenant(1, weight=3), tenant(2, weight=1)])
    waiting = {each.attempt.session_id: each for each in queue_of(1, 200) + queue_of(2, 200)}
    live: list[int] = []
    shares: Counter[int] = Counter()
    for step in range(600):
        promoted = promote(made, waiting.values())
        for each in promoted:
            owner = each.waiter.attempt.tenant_id
            del waiting[each.waiter.attempt.session_id]
            live.append(owner)
            fresh = Waiter(attempt(owner, f"new {step}"), 1.0, step)
            waiting[fresh.attempt.session_id] = fresh
            shares[owner] += 1
        made.release(tenant_id=live.pop(chance.randrange(len(live))), backend_id=10, user="")
    assert 2.7 <= shares[1] / shares[2] <= 3.3


def test_who_is_away_is_passed_over_and_keeps_the_place() -> None:
    made = world([view(10, cap=1)], [tenant(1)])
    first, second, third = queue_of(1, 3)
    assert [each.waiter for each in promote(made, [replace(first, present=False), second, third])] == [second]
    made.release(tenant_id=1, backend_id=10, user=second.attempt.user)
    assert [each.waiter for each in promote(made, [first, third])] == [first]


def test_a_tenant_or_user_at_its_limit_and_a_full_backend_block_nobody_else() -> None:
    made = world(
        [view(10, used=10), view(11)],
        [tenant(1, (10, 11), limit=1, used=1, priority=9), tenant(2, (10, 11), user_limit=1), tenant(3, (10,), priority=9)],
        user_used={(2, "ann"): 1},
    )
    bob = Waiter(attempt(2, "bob"), 5.0)
    waiting = [*queue_of(1, 1), *queue_of(3, 1), Waiter(attempt(2, "ann"), 0.0), Waiter(attempt(2, "ann", backend="backend-10"), 0.0), bob]
    assert [each.waiter for each in promote(made, waiting)] == [bob]


def test_who_has_a_reservation_is_promoted_into_it_though_others_find_no_room() -> None:
    made = world([view(10, used=8, reservations=Reservations({2: (2, 0)}))], [tenant(1, priority=9), tenant(2)], now=1.0)
    assert tenants_of(promote(made, queue_of(1, 5) + queue_of(2, 5))) == [2, 2]


def test_a_waiter_is_promoted_into_a_burst_and_marked() -> None:
    made = world([view(10, burst_below=0.2)], [tenant(1, limit=0, burst=5)])
    promoted = promote(made, queue_of(1, 4))
    assert [each.verdict.burst for each in promoted] == [True, True]


def test_a_tenant_that_has_reached_its_limit_closes_no_burst_for_another() -> None:
    made = world([view(10)], [tenant(1, limit=1), tenant(2, limit=1, used=1, burst=1)], now=10.0)
    assert tenants_of(promote(made, queue_of(1, 3) + queue_of(2, 3, since=9))) == [1, 2]


def test_within_a_tenant_who_came_first_goes_first_whatever_they_ask_for() -> None:
    made = world([view(10, pipelines=frozenset({"s2s", "stt_tts"}))], [tenant(1)])
    waiting = [Waiter(attempt(1, pipeline=each), 0.0, place) for place, each in enumerate(["s2s", "stt_tts", "s2s", "stt_tts", ""])]
    assert [each.waiter for each in promote(made, waiting)] == waiting


def test_a_platform_that_is_full_promotes_nobody_and_one_that_fills_stops() -> None:
    made = world([view(10)], [tenant(1)], platform_limit=0)
    assert promote(made, queue_of(1, 3)) == []
    made.platform_limit = 2
    assert len(promote(made, queue_of(1, 3))) == 2
    assert admit(made, attempt()).reason is Reason.PLATFORM_LIMIT
