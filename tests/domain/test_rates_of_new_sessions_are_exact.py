"""Never more than a minute's worth and what has come back, never less either, and only for what was let in."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from sessions_app.domain.admission import decide
from sessions_app.domain.rates import Bucket, RateKey
from sessions_app.domain.states import Reason
from sessions_app.domain.world import Scope
from tests.domain.worlds import attempt, tenant, view, world

START = 1_800_000_000.0
gaps = st.lists(st.integers(0, 400).map(lambda quarters: quarters / 4), max_size=40)


@given(st.integers(0, 7), gaps)
def test_what_is_let_in_is_what_a_bucket_of_exact_numbers_lets_in(per_minute: int, waits: list[float]) -> None:
    made = world([view(10, cap=None)], [tenant(rate=per_minute)], now=START)
    exact = Fraction(per_minute)
    for wait in waits:
        made.now += wait
        exact = min(Fraction(per_minute), exact + Fraction(wait) * per_minute / 60)
        (verdict,) = decide(made, [attempt()])
        assert verdict.admitted == (exact >= 1)
        if verdict.admitted:
            exact -= 1
            continue
        assert verdict.reason is Reason.RATE_LIMIT
        if per_minute:
            missing = (1 - exact) * 60 / per_minute
            assert verdict.retry_after_s is not None
            assert missing <= verdict.retry_after_s < missing + 1
        else:
            assert verdict.retry_after_s is None


@given(st.integers(1, 600), st.lists(st.floats(0, 5), max_size=60))
def test_no_stretch_of_time_has_more_than_a_minutes_worth_and_what_came_back(per_minute: int, waits: list[float]) -> None:
    made = world([view(10, cap=None)], [tenant(user_rate=per_minute)], now=START)
    times = []
    for wait in waits:
        made.now += wait
        times += [made.now for each in decide(made, [attempt()] * 3) if each.admitted]
    for first in range(len(times)):
        for last in range(first, len(times)):
            assert last - first + 1 <= per_minute + (times[last] - times[first]) * per_minute / 60 + 1e-3


def test_it_may_be_asked_again_after_the_time_that_the_refusal_names() -> None:
    made = world([view(10, cap=None)], [tenant(rate=7)], now=START)
    verdicts = decide(made, [attempt()] * 8)
    assert [each.admitted for each in verdicts] == [True] * 7 + [False]
    assert (verdicts[-1].retry_after_s, verdicts[-1].rate) == (9, Scope.TENANT)
    made.now += 8
    assert not decide(made, [attempt()])[0].admitted
    made.now += 1
    assert decide(made, [attempt()])[0].admitted


def test_tenths_of_a_second_add_up_to_a_token() -> None:
    made = world([view(10, cap=None)], [tenant(rate=60)], now=0.0, rates={("tenant", 1): Bucket(0.0, 0.0)})
    for _ in range(10):
        assert not decide(made, [attempt()])[0].admitted
        made.now += 0.1
    assert decide(made, [attempt()])[0].admitted


def test_what_is_refused_for_another_reason_spends_nothing() -> None:
    made = world(
        [view(10, cap=0)], [tenant(rate=5, user_rate=5), tenant(2, rate=5, suspended=True), tenant(3, rate=5, max_queue_length=1, queued=1)]
    )
    reasons = [each.reason for each in decide(made, [attempt(1), attempt(2), attempt(3)])]
    assert reasons == [Reason.BACKEND_LIMIT, Reason.TENANT_SUSPENDED, Reason.QUEUE_FULL]
    assert (made.rates, made.spent_rates) == ({}, set())


def test_what_is_queued_spends_and_needs_a_token() -> None:
    made = world([view(10, cap=0)], [tenant(rate=1, max_queue_length=None)])
    first, second = decide(made, [attempt(), attempt()])
    assert (first.queued, first.reason) == (True, Reason.BACKEND_LIMIT)
    assert (second.queued, second.reason) == (False, Reason.RATE_LIMIT)
    assert made.tenants[1].queued == 1


def test_a_token_is_taken_of_both_rates_or_of_none() -> None:
    made = world([view(10, cap=None)], [tenant(rate=5, user_rate=1)], now=START)
    verdicts = decide(made, [attempt(user="ann"), attempt(user="ann"), attempt(user="bob")])
    assert [each.admitted for each in verdicts] == [True, False, True]
    assert (verdicts[1].rate, verdicts[1].retry_after_s) == (Scope.USER, 60)
    expected: dict[RateKey, Bucket] = {
        ("tenant", 1): Bucket(3.0, START),
        ("user", 1, "ann"): Bucket(0.0, START),
        ("user", 1, "bob"): Bucket(0.0, START),
    }
    assert made.rates == expected
    assert made.spent_rates == set(expected)


def test_a_lower_figure_acts_at_once() -> None:
    made = world([view(10, cap=None)], [tenant(rate=2)], now=START, rates={("tenant", 1): Bucket(600.0, START)})
    assert [each.admitted for each in decide(made, [attempt()] * 3)] == [True, True, False]


def test_a_clock_that_goes_back_takes_nothing_away_and_gives_nothing_twice() -> None:
    made = world([view(10, cap=None)], [tenant(rate=3)], now=START, rates={("tenant", 1): Bucket(2.0, START)})
    made.now -= 3600
    assert decide(made, [attempt()])[0].admitted
    made.now += 3600
    assert [each.admitted for each in decide(made, [attempt()] * 2)] == [True, False]
