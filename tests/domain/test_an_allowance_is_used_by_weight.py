"""Something that counts for several takes as much of an allowance as several things."""

from sessions_app.domain.allowance import Allowance


def test_what_counts_for_four_leaves_room_for_what_counts_for_one() -> None:
    allowance = Allowance(rate=10, burst=5)
    assert allowance.take(0.0, 4)
    assert not allowance.take(0.0, 2)
    assert allowance.take(0.0)
    assert not allowance.take(0.0)


def test_what_was_refused_costs_nothing_and_time_brings_it_back() -> None:
    allowance = Allowance(rate=10, burst=5)
    assert not allowance.take(0.0, 6)
    assert allowance.take(0.0, 5)
    assert not allowance.take(0.4, 5)
    assert allowance.take(0.5, 5)
